"""What augmentation does to posters, seen in their pixels."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from onesheet.data.augmentation import augment, mix, shrink  # noqa: E402
from onesheet.training.config import AugmentConfig  # noqa: E402

STILL = {"min_scale": 1.0, "flip": 0.0, "jitter": 0.0, "erase": 0.0, "mixup": 0.0}


@pytest.fixture
def posters():
    """uint8 `[64, 40, 30, 3]`: red grows to the right, green downwards, blue is the poster's own."""
    torch.manual_seed(0)
    images = torch.zeros((64, 40, 30, 3), dtype=torch.uint8)
    images[..., 0] = (torch.arange(30) * 8).to(torch.uint8)
    images[..., 1] = (torch.arange(40) * 6).to(torch.uint8)[:, None]
    images[..., 2] = (torch.arange(64) * 3).to(torch.uint8)[:, None, None]
    return images


def changed(posters, height=40, width=30, **config):
    return augment(posters, AugmentConfig(**{**STILL, **config}), height, width)


def test_without_any_strength_nothing_changes(posters):
    assert torch.allclose(changed(posters), posters.permute(0, 3, 1, 2).float(), atol=1e-2)


def test_the_result_has_the_networks_size_and_range(posters):
    everything = {"min_scale": 0.3, "flip": 0.5, "rotate": 10.0, "jitter": 0.5, "greyscale": 0.2, "erase": 0.5}
    pixels = changed(posters, 32, 24, **everything)
    assert pixels.shape == (64, 3, 32, 24)
    assert pixels.dtype == torch.float32
    assert pixels.min() >= 0
    assert pixels.max() <= 255


def test_flip_mirrors_left_and_right_only(posters):
    mirrored = posters.permute(0, 3, 1, 2).flip(3).float()
    assert torch.allclose(changed(posters, flip=1.0), mirrored, atol=1e-2)
    reds = changed(posters, flip=0.5)[:, 0]
    flipped = (reds[:, 0, 0] > reds[:, 0, -1]).float().mean()
    assert 0.3 < flipped < 0.7


def test_a_crop_shows_a_part_and_keeps_the_share_of_the_area(posters):
    pixels = changed(posters, min_scale=0.25)
    across = (pixels[:, 0].amax((1, 2)) - pixels[:, 0].amin((1, 2))) / (29 * 8)
    down = (pixels[:, 1].amax((1, 2)) - pixels[:, 1].amin((1, 2))) / (39 * 6)
    area = across * down
    assert area.min() > 0.2
    assert area.max() <= 1.0
    assert area.std() > 0.1
    assert (across / down).max() < 1.35


def test_rotation_turns_by_no_more_than_asked(posters):
    """The red slope points along the rows, turned by the angle."""
    pixels = changed(posters, rotate=10.0)[:, :, 10:30, 8:22]
    slope_x = (pixels[:, 0, 0, -1] - pixels[:, 0, 0, 0]) / 13
    slope_y = (pixels[:, 0, -1, 0] - pixels[:, 0, 0, 0]) / 19
    degrees = torch.rad2deg(torch.atan2(slope_y, slope_x)).abs()
    assert degrees.max() < 10.5
    assert degrees.max() > 5


def test_colours_change_but_edges_stay(posters):
    pixels = changed(posters, jitter=0.4)
    original = posters.permute(0, 3, 1, 2).float()
    assert (pixels - original).abs().mean() > 5
    assert (pixels[:, 0].argmax(dim=2) >= original[:, 0].argmax(dim=2) - 1).float().mean() > 0.5


def test_greyscale_takes_all_colour(posters):
    pixels = changed(posters, greyscale=1.0)
    assert torch.allclose(pixels[:, 0], pixels[:, 1], atol=1e-2)
    assert torch.allclose(pixels[:, 0], pixels[:, 2], atol=1e-2)


def test_erasing_blanks_one_rectangle_of_some_posters(posters):
    original = posters.permute(0, 3, 1, 2).float()
    erased = ((changed(posters, erase=0.5) - original).abs() > 1).any(dim=1)
    share = erased.float().mean((1, 2))
    assert 0.25 < (share > 0).float().mean() < 0.75
    assert share.max() < 0.3
    for mask in erased[share > 0]:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.float().mean() > 0.85


def test_every_poster_is_changed_in_its_own_way(posters):
    same = posters[:1].expand(8, -1, -1, -1)
    pixels = changed(same, min_scale=0.3, jitter=0.3)
    assert len({round(float(image.mean()), 3) for image in pixels}) == 8


def test_the_same_seed_makes_the_same_change(posters):
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(changed(posters, min_scale=0.3, jitter=0.3, erase=0.5, rotate=5.0))
    assert torch.equal(*results)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_mixes_targets_as_it_mixes_pixels(kind):
    torch.manual_seed(1)
    inputs = torch.arange(32.0).view(32, 1, 1, 1).expand(32, 3, 20, 16)
    targets = torch.eye(32)
    mixed, soft = mix(inputs, targets, AugmentConfig(**{**STILL, kind: 1.0}))
    # A poster's mean is the mean of those it is made of, weighed as its targets say.
    assert torch.allclose(mixed.mean((1, 2, 3)), soft @ torch.arange(32.0), atol=1e-3)
    assert torch.allclose(soft.sum(1), torch.ones(32))
    assert (soft.max(1).values < 0.99).float().mean() > 0.5
    assert len(mixed[0].unique()) <= (2 if kind == "cutmix" else 1)


def test_mixing_is_off_when_nobody_asks(posters):
    inputs, targets = torch.rand(4, 3, 8, 8), torch.rand(4, 2)
    mixed, soft = mix(inputs, targets, AugmentConfig(**STILL))
    assert mixed is inputs
    assert soft is targets


def test_both_kinds_take_turns():
    torch.manual_seed(0)
    inputs = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 20, 16)
    config = AugmentConfig(**{**STILL, "mixup": 1.0, "cutmix": 1.0})
    values = [len(mix(inputs, torch.eye(8), config)[0][0].unique()) for _ in range(20)]
    assert {1, 2} <= set(values)


def test_smaller_pictures_are_smoothed(posters):
    checkered = torch.zeros_like(posters)
    checkered[:, ::2, ::2] = 255
    checkered[:, 1::2, 1::2] = 255
    smaller = shrink(checkered, 2)
    assert smaller.shape == (64, 20, 15, 3)
    assert smaller.dtype == torch.uint8
    inside = smaller[:, 2:-2, 2:-2].float()
    assert torch.allclose(inside, torch.full_like(inside, 127.5), atol=2)


def test_pictures_that_need_not_be_smaller_stay(posters):
    assert shrink(posters, 1) is posters


def test_posters_elsewhere_than_on_the_cpu_are_shrunk_too():
    """Only the CPU interpolates bytes; a GPU gets numbers, and gives bytes back."""
    smaller = shrink(torch.zeros(2, 30, 20, 3, dtype=torch.uint8, device="meta"), 2)
    assert (smaller.shape, smaller.dtype, smaller.device.type) == ((2, 15, 10, 3), torch.uint8, "meta")
