"""Augmentation: what it must never change, and that a seed decides it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.errors import InputError
from trainables.modalities.images.augment import POLICIES, augment

POLICY = st.sampled_from(sorted(POLICIES))


def images(n: int = 6, channels: int = 3, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand((n, channels, size, size), generator=torch.Generator().manual_seed(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(
    policy=POLICY,
    strength=st.floats(0, 1),
    n=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    size=st.integers(4, 33),
    seed=st.integers(0, 2**31),
)
def test_shape_and_range_stay_and_the_input_is_left_alone(
    policy: str, strength: float, n: int, channels: int, size: int, seed: int
) -> None:
    before = images(n, channels, size, seed)
    given_images = before.clone()
    after = augment(given_images, policy, strength, seeded(seed))
    assert after.shape == before.shape
    assert after.dtype == before.dtype
    assert torch.equal(given_images, before)
    assert after.isfinite().all()
    assert ((after >= -1e-6) & (after <= 1 + 1e-6)).all()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_strength_zero_changes_nothing(policy: str) -> None:
    assert torch.equal(augment(images(), policy, 0.0, seeded()), images())


@pytest.mark.parametrize("policy", ["digits", "photo"])
def test_a_tiny_strength_changes_little(policy: str) -> None:
    smooth = torch.linspace(0, 1, 16).expand(4, 3, 16, 16)
    torch.testing.assert_close(augment(smooth, policy, 1e-6, seeded()), smooth, atol=1e-4, rtol=0)


@pytest.mark.parametrize("policy", ["digits", "photo"])
def test_a_seed_decides_every_change_and_each_image_has_its_own(policy: str) -> None:
    same = images(1).expand(8, -1, -1, -1)
    first = augment(same, policy, 0.5, seeded(1))
    assert torch.equal(first, augment(same, policy, 0.5, seeded(1)))
    assert not torch.equal(first, augment(same, policy, 0.5, seeded(2)))
    assert len({image.numpy().tobytes() for image in first}) == 8


def test_no_draw_from_the_global_generator() -> None:
    state = torch.random.get_rng_state()
    for policy in POLICIES:
        augment(images(), policy, 0.7, seeded())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_digits_are_never_mirrored() -> None:
    """The brightness gradient from left to right survives a rotation of at most 30 degrees."""
    ramp = torch.linspace(0, 1, 16).expand(200, 1, 16, 16)
    changed = augment(ramp, "digits", 1.0, seeded())
    slope = changed[..., 8:].mean((1, 2, 3)) - changed[..., :8].mean((1, 2, 3))
    assert (slope > 0).all()


def test_half_of_the_photos_are_mirrored_from_strength_one_half_on() -> None:
    ramp = torch.linspace(0.4, 0.6, 16).expand(2000, 1, 16, 16)
    for strength, share in ((0.25, 0.25), (0.5, 0.5), (1.0, 0.5)):
        changed = augment(ramp, "photo", strength, seeded())
        slope = changed[..., 8:].mean((1, 2, 3)) - changed[..., :8].mean((1, 2, 3))
        assert (slope < 0).float().mean().item() == pytest.approx(share, abs=0.04)


def test_grey_photos_stay_grey() -> None:
    grey = images(channels=1).expand(-1, 3, -1, -1)
    after = augment(grey, "photo", 1.0, seeded())
    torch.testing.assert_close(after[:, 0], after[:, 2], atol=1e-5, rtol=0)


def test_an_unknown_policy_names_the_valid_ones() -> None:
    with pytest.raises(InputError, match=r"unknown augmentation 'photos'; valid: photo"):
        augment(images(), "photos", 0.5, seeded())
