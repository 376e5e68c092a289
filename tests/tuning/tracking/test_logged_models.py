"""A sweep's best model, served by MLflow itself and asked over HTTP; and predictions of the CLI."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from PIL import Image
from records import wait_for

from tuning.after.predict import predict
from tuning.before_start.options import SweepOptions, resolve
from tuning.tracking.logged_models import find_checkpoint


def ask(url: str, column: str, values: list[str]) -> list[dict]:
    body = json.dumps({"dataframe_records": [{column: value} for value in values]}).encode()
    request = Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)["predictions"]


@pytest.fixture
def serve(workplace, free_port):
    """Serves the model of a run with MLflow's own command, until the test ends."""
    servers = []

    def start(run_id: str) -> str:
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
        model = ["-m", f"runs:/{run_id}/model", "--host", "127.0.0.1", "--port", str(free_port)]
        log = (workplace / "serve.log").open("w")
        store = {"MLFLOW_TRACKING_URI": f"sqlite:///{workplace}/mlflow.db"}

        servers.append(
            subprocess.Popen(
                [*command, *model],
                stdout=log,
                stderr=log,
                env={**os.environ, **store},
                start_new_session=True,
            )
        )
        wait_for(f"http://127.0.0.1:{free_port}")
        return f"http://127.0.0.1:{free_port}"

    yield start

    for server in servers:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_images(tiny_digits, run, serve, workplace):
    sweep = tiny_digits(trials=1)
    summary = run(sweep).summary
    picture = io.BytesIO()
    Image.new("L", (8, 8), 120).save(picture, "PNG")
    Path("grey.png").write_bytes(picture.getvalue())
    expected = predict(summary["best"]["checkpoint"], ["grey.png"], None)
    encoded = base64.b64encode(picture.getvalue()).decode()
    answer = ask(serve(summary["best"]["mlflow_run_id"]), "image", [encoded, encoded])
    assert [row["label"] for row in answer] == [expected[0]["label"]] * 2
    assert answer[0]["probability"] == pytest.approx(expected[0]["probability"], abs=1e-4)
    by_run = find_checkpoint(f"runs:/{summary['best']['mlflow_run_id']}/model", None)
    assert predict(str(by_run), ["grey.png"], None) == expected


@pytest.mark.long
@pytest.mark.timeout(240)
def test_texts(workplace, run, serve):
    rows = [f"a {'fine' if n % 2 else 'poor'} film number {n},{'ab'[n % 2]}" for n in range(60)]
    Path("data.csv").write_text("\n".join(["text,label", *rows]))
    settings = ["data=data.csv", "model=scratch:bert-tiny", "epochs=1", "freezing=lora"]
    options = SweepOptions(space="text_csv", settings=settings, engine="inprocess", trials=1)
    summary = run(resolve(options)).summary
    texts = ["a fine film", "a poor film, really"]
    expected = predict(summary["best"]["checkpoint"], texts, None)
    Path("lines.txt").write_text("\n\n".join(texts))
    assert predict(summary["best"]["checkpoint"], ["lines.txt"], None) == expected
    answer = ask(serve(summary["best"]["mlflow_run_id"]), "text", texts)
    assert [row["label"] for row in answer] == [row["label"] for row in expected]


@pytest.mark.long
@pytest.mark.timeout(240)
def test_entities(workplace, run, serve):
    # Parts of speech: each word is an entity of its own, whatever the model has learned.
    sentences = (f"Ada NAME\nsaw VERB\n{n} NUMBER\n\n" for n in range(60))
    Path("data.conll").write_text("".join(sentences))
    settings = ["data=data.conll", "model=scratch:bert-tiny", "epochs=1", "freezing=none"]
    space = "token_classification"
    options = SweepOptions(space=space, settings=settings, engine="inprocess", trials=1)
    summary = run(resolve(options)).summary
    texts = ["Ada saw two", "\u200b"]  # of a space without width the tokenizer makes nothing
    expected = predict(summary["best"]["checkpoint"], texts, None)
    assert [len(row["entities"]) for row in expected] == [3, 0]
    answer = ask(serve(summary["best"]["mlflow_run_id"]), "text", texts)
    for found, own in zip(answer, expected, strict=True):
        assert found.keys() == {"entities"}
        for one, other in zip(found["entities"], own["entities"], strict=True):
            assert one == {**other, "probability": pytest.approx(other["probability"], abs=1e-4)}
