# The same targets as CI.
.PHONY: test lint ci

test:
	uv run pytest

lint:
	uv run ruff check .
	uv run ruff format --check .
	uv run mypy
	uv run deptry .

ci:
	bash .ci/run
