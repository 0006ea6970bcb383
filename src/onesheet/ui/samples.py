"""Six posters of films that do not exist, drawn here, so that a newcomer to the page has something to click.

Each poster is drawn at twice its size and scaled down, which smooths every edge that Pillow leaves jagged.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE: Final = (400, 592)
_W, _H = 2 * SIZE[0], 2 * SIZE[1]


@dataclass(frozen=True, slots=True)
class Sample:
    """A poster of our own making.

    Attributes:
        name: Short name, fit for a file or an address.
        title: Title of the invented film.
        description: What the poster shows, for those who cannot see it.
        draw: Draws the poster, in `SIZE`.
    """

    name: str
    title: str
    description: str
    draw: Callable[[], Image.Image]


def _sample(title: str, description: str) -> Callable[[Callable[[], Image.Image]], Sample]:
    """Make a `Sample` of the function that draws it."""
    return functools.partial(Sample, title.lower().replace(" ", "-"), title, description)


@functools.cache
def encoded(sample: Sample) -> bytes:
    """The poster as a JPEG file; always the same bytes."""
    file = io.BytesIO()
    sample.draw().save(file, "JPEG", quality=88, optimize=True)
    return file.getvalue()


def _gradient(*colours: str) -> Image.Image:
    """A fresh sheet that runs through the colours from top to bottom."""
    stops = np.array([ImageColor.getrgb(colour) for colour in colours])
    at = np.linspace(0, len(stops) - 1, _H)
    rows = np.stack([np.interp(at, range(len(stops)), channel) for channel in stops.T], axis=1)
    return Image.fromarray(np.repeat(rows[:, None], _W, axis=1).astype(np.uint8))


def _glow(image: Image.Image, x: float, y: float, radius: float, colour: str) -> None:
    """Shed light of a colour around a point."""
    rows, columns = np.ogrid[:_H, :_W]
    light = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / radius**2)[..., None] * ImageColor.getrgb(colour)
    image.paste(ImageChops.screen(image, Image.fromarray(light.astype(np.uint8))))


def _shape(
    image: Image.Image, ink: str, *paths: str, rounds: int = 0, at: complex = 0, by: complex = 1, mirror: float = 0
) -> None:
    """Polygons through points written as SVG writes them.

    Each round cuts the corners off, towards a smooth curve. `by` turns and scales, `at` moves, and `mirror` is a column
    in which the shape is seen a second time (0: none).
    """
    for path in paths:
        corners = at + by * np.array([complex(*map(float, point.split(","))) for point in path.split()])
        for _ in range(rounds):
            ahead = np.roll(corners, -1)
            corners = np.stack([3 * corners + ahead, corners + 3 * ahead], axis=1).ravel() / 4
        for outline in (corners, 2 * mirror - corners.conj()) if mirror else (corners,):
            ImageDraw.Draw(image).polygon(_points(outline), fill=ink)


def _points(outline: NDArray[np.complex128]) -> list[tuple[float, float]]:
    return list(zip(outline.real.tolist(), outline.imag.tolist(), strict=True))


def _ball(image: Image.Image, x: float, y: float, radius: float, light: str, dark: str, fur: float = 0) -> None:
    """A sphere lit from the upper left; `fur` is how far its hair stands out."""
    rows, columns = np.ogrid[:_H, :_W]
    depth = np.clip(np.hypot(columns - x + radius * 0.45, rows - y + radius * 0.5) / (1.6 * radius), 0, 1)
    shade = Image.fromarray((255 * depth**1.4).astype(np.uint8))
    rim = (radius + fur * (np.arange(240) % 3 == 0)) * np.exp(1j * np.linspace(0, 2 * np.pi, 240)) + complex(x, y)
    disc = Image.new("L", image.size)
    ImageDraw.Draw(disc).polygon(_points(rim), fill=255)
    far, near = (Image.new("RGB", image.size, ink) for ink in (dark, light))
    image.paste(Image.composite(far, near, shade), mask=disc)


def _text(image: Image.Image, text: str, y: float, height: int, ink: str, weight: int = 0, spread: int = 0) -> None:
    """Set a centred line of capitals `height` tall; one too wide for the sheet is condensed until it fits."""
    font = ImageFont.load_default(size=160)
    mask = Image.new("L", (400 + len(text) * (180 + spread), 400))
    for index, letter in enumerate(text):
        at = 100 + font.getlength(text[:index]) + index * (spread + 2 * weight)
        ImageDraw.Draw(mask).text((at, 100), letter, fill=255, font=font, stroke_width=weight)
    mask = mask.crop(mask.getbbox())
    width = min(680, round(mask.width * height / mask.height))
    image.paste(ink, ((_W - width) // 2, round(y)), mask.resize((width, height), Image.Resampling.LANCZOS))


def _finish(image: Image.Image, ink: str, seed: int) -> Image.Image:
    """Set the small print, scale down and print on paper: a little grain, corners a little darker."""
    _text(image, "A ONESHEET SAMPLE", 1126, 17, ink, weight=2, spread=60)
    pixels = np.asarray(image.resize(SIZE, Image.Resampling.LANCZOS), np.float32)
    rows, columns = np.ogrid[-1 : 1 : SIZE[1] * 1j, -1 : 1 : SIZE[0] * 1j]
    vignette = 1 - 0.06 * (rows**2 + columns**2)
    grain = np.random.default_rng(seed).normal(0, 3.5, (SIZE[1], SIZE[0]))
    return Image.fromarray(np.clip(pixels * vignette[..., None] + grain[..., None], 0, 255).astype(np.uint8))


def _tree(image: Image.Image, ink: str, width: float, foot: complex, limb: complex, bends: Sequence[float]) -> None:
    """A bare tree; a limb is a step in the complex plane, so that a product bends it."""
    tip = foot + limb
    draw = ImageDraw.Draw(image)
    draw.line(_points(np.array([foot, tip])), fill=ink, width=round(width))
    draw.circle((tip.real, tip.imag), width / 2, fill=ink)
    if width > 2:
        for bend in (-bends[0], bends[1]):
            onward = 0.78 * limb * complex(np.cos(bend), np.sin(bend))
            _tree(image, ink, 0.66 * width, tip, onward, [bends[-1], *bends[:-1]])


@_sample("Dead Lantern", "A lantern with a grinning flame hangs in a dark wood, over a small lone figure.")
def _dead_lantern() -> Image.Image:
    image, rng = _gradient("#07161a", "#12393b", "#1c4a45", "#0a1a1b", "#030606"), np.random.default_rng(3)
    draw, black = ImageDraw.Draw(image), "#020505"
    for ink, width, feet in (("#133a3b", 26, range(40, 800, 120)), ("#0c2628", 40, range(90, 800, 155))):
        for foot in feet:
            limb, bends = complex(rng.normal(0, 18), -170), rng.uniform(0.15, 0.6, 3).tolist()
            _tree(image, ink, width, foot + 800j, limb, bends)
        _glow(image, 400, 450, 330, "#7a3a10")
    _glow(image, 400, 440, 190, "#e07a1c")
    draw.ellipse((-300, 740, 1100, 1500), fill="#040809")
    draw.ellipse((290, 752, 510, 788), fill="#8a4a17")
    _shape(image, black, "400,682 424,692 428,752 412,778 404,776 400,750 396,776 388,778 372,752 376,692", rounds=1)
    draw.circle((400, 676), 12, fill=black)
    for foot, lean in ((-10, 40), (810, -40)):
        _tree(image, black, 120, foot + 960j, lean - 330j, [0.5, 0.25, 0.7])
    draw.line((400, 0, 400, 190), fill=black, width=7)
    draw.ellipse((345, 185, 455, 305), outline=black, width=11)
    _shape(image, black, "340,285 460,285 515,335 500,345 500,570 520,605 280,605 300,570 300,345 285,335")
    _shape(image, "#f08a24", "314,340 486,340 486,566 314,566")
    _glow(image, 400, 450, 110, "#ffd070")
    _shape(image, "#2a0d02", "330,405 392,445 360,470", mirror=400)  # the flame looks back
    _shape(image, "#2a0d02", "335,490 358,520 370,500 388,524 400,502 400,555 365,545", mirror=400)
    _text(image, "IT WAS NEVER MEANT TO BE LIT", 866, 22, "#c9a36a", weight=1, spread=40)
    _text(image, "DEAD LANTERN", 920, 150, "#e8dfc8", weight=4)
    return _finish(image, "#7d8f87", 1)


def _ringed_planet(image: Image.Image) -> None:
    ring = Image.new("RGBA", image.size)
    for reach, ink in ((390, "#ffd9a8"), (368, "#00000000"), (358, "#e79a86"), (316, "#b86a90"), (284, "#00000000")):
        ImageDraw.Draw(ring).ellipse((400 - reach, 570 - reach / 4, 400 + reach, 570 + reach / 4), fill=ink)
    front = ring.copy()  # all of it goes behind the planet, and this half before it as well
    front.paste((0, 0, 0, 0), (0, 0, _W, 570))
    for layer in (ring, front):
        tilted = layer.rotate(18, Image.Resampling.BICUBIC, center=(400, 570))
        image.paste(tilted, mask=tilted)
        if layer is ring:
            _ball(image, 400, 570, 215, "#ffc98f", "#3b1250")


@_sample("Orbit of Ossia", "A rocket climbs past a ringed planet in a violet sky full of stars.")
def _orbit_of_ossia() -> Image.Image:
    image, rng = _gradient("#070a20", "#141a4c", "#3a2370", "#8a3a80", "#f0807a"), np.random.default_rng(5)
    draw = ImageDraw.Draw(image)
    for x, y, size in zip(rng.uniform(0, _W, 260), rng.uniform(0, 900, 260), rng.uniform(0.5, 2.2, 260), strict=True):
        draw.circle((x, y), size, fill="#cfd6ff")
    _glow(image, 330, 520, 380, "#3a2a80")
    _ringed_planet(image)
    for t in np.linspace(0, 1, 120):  # the trail narrows with the distance
        draw.circle((170 + 440 * t - 60 * t * t, 1020 - 190 * t - 190 * t * t), 30 - 22 * t, fill="#fff0dc")
    _glow(image, 545, 650, 60, "#ff9a50")
    _glow(image, 250, 980, 140, "#d0603a")
    for ink, path, rounds in (
        ("#ffc23d", "-16,50 16,50 0,130", 1),
        ("#e8384f", "-20,10 -54,80 0,55 54,80 20,10", 0),
        ("#fff6ea", "0,-110 24,-60 32,0 22,64 -22,64 -32,0 -24,-60", 2),
        ("#d9b8c8", "0,-98 18,-60 26,0 18,62 4,62 10,0", 2),
        ("#25205e", "-13,-46 13,-46 13,-20 -13,-20", 3),
    ):
        _shape(image, ink, path, rounds=rounds, at=580 + 590j, by=0.83 + 0.56j)
    ridge = "-90,1400 -90,900 70,960 150,900 260,1010 420,980 540,1020 640,950 720,985 900,840 900,1400"
    _shape(image, "#1b0d33", ridge, rounds=1)
    _text(image, "ORBIT OF", 84, 40, "#ffd9c0", weight=2, spread=110)
    _text(image, "OSSIA", 158, 120, "#fff3e6", weight=2, spread=60)
    _text(image, "NINE YEARS OUT AND NO WAY TO TURN", 1064, 22, "#f0a0a0", weight=1, spread=40)
    return _finish(image, "#b07aa0", 2)


@_sample("Six Miles to Salt Creek", "A man in a hat stands among cactuses and mesas before a huge low sun.")
def _salt_creek() -> Image.Image:
    image = _gradient("#b82d1c", "#e8622a", "#f7a53c", "#ffd98a", "#ffd98a")
    draw, man = ImageDraw.Draw(image), "#22080c"
    for radius, ink in ((345, "#f08a35"), (285, "#f6a744"), (225, "#fcc860"), (165, "#fff0bd")):
        draw.circle((400, 620), radius, fill=ink)
    _shape(image, "#d0602f", "-9,590 120,590 135,690 215,760 585,760 655,670 668,610 810,610 810,999 -9,999")
    _shape(image, "#94331f", "-9,680 50,680 62,740 140,800 640,800 700,730 712,650 830,650 830,999 -9,999")
    draw.ellipse((-700, 805, 1500, 2000), fill="#5a1a1a")
    arms = "-54,-54 -54,-130 -32,-130 -32,-84 -14,-84 -14,-190 14,-190 14,-100 32,-100 32,-150 54,-150 54,-70"
    for at, size in ((120 + 850j, 1.3), (690 + 835j, 0.9)):
        _shape(image, "#3a0f14", f"-14,20 -14,0 -14,-54 {arms} 14,-70 14,0 14,20", rounds=2, at=at, by=size)
    _shape(image, "#3f1115", "340,884 460,884 640,1200 160,1200")
    _shape(
        image,
        man,
        "364,760 402,770 384,880 386,896 326,896 346,878",
        "400,592 446,606 478,660 496,800 430,786 400,812 370,786 304,800 322,660 354,606",
        "372,560 428,560 428,640 372,640",
        "286,568 350,566 450,566 514,568 450,606 350,606",
        "352,592 362,500 382,490 400,508 418,490 438,500 448,592",
        rounds=2,
        mirror=400,
    )
    _text(image, "SIX MILES TO", 90, 50, "#fff0cf", weight=4, spread=70)
    _text(image, "SALT CREEK", 166, 170, "#fff0cf", weight=9)
    _text(image, "AND NO WATER IN ANY OF THEM", 1064, 22, "#f7b25a", weight=1, spread=40)
    return _finish(image, "#c9703f", 3)


@_sample("Where the Tide Waits", "A couple sits on a shore before a heart-shaped sun that sinks into the sea.")
def _where_the_tide_waits() -> Image.Image:
    image, rng = _gradient("#3d2a6b", "#a8447f", "#f0727a", "#ffb98a", "#ffe0b0"), np.random.default_rng(9)
    draw, ink, angles = ImageDraw.Draw(image), "#1c1038", np.linspace(0, 2 * np.pi, 200)
    _glow(image, 400, 580, 330, "#80503a")
    across = 400 + 240 * np.sin(angles) ** 3
    down = 575 - 15 * (13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles))
    draw.polygon(_points(across + 1j * down), fill="#ffe9b8")
    image.paste(_gradient("#b04a80", "#6b2f78", "#35205c", "#1c1440").resize((_W, _H - 720)), (0, 720))
    for y in range(728, 1010, 14):
        x, reach = 400 + rng.normal(0, 10), rng.uniform(0.6, 1) * (230 - (y - 720) * 0.5)
        draw.rounded_rectangle((x - reach, y, x + reach, y + 6), 3, fill="#ffc79a")
    for x, y, wing in ((110, 400, 26), (175, 355, 18), (660, 370, 22)):
        draw.arc((x - 2 * wing, y, x, y + wing), 190, 350, fill=ink, width=5)
        draw.arc((x, y, x + 2 * wing, y + wing), 190, 350, fill=ink, width=5)
    draw.ellipse((-250, 900, 1050, 1700), fill=ink)
    _shape(
        image,
        ink,
        "280,960 312,840 338,770 372,760 404,790 412,960",
        "346,760 340,700 372,676 404,690 408,740 390,830 345,840",
        "384,960 396,800 424,742 474,742 508,790 540,960",
        "392,716 392,668 428,650 462,668 466,712 440,760 420,760",
        rounds=2,
    )
    _text(image, "WHERE THE", 96, 40, "#ffe3cf", spread=110)
    _text(image, "TIDE WAITS", 168, 104, "#fff4e6", weight=1, spread=30)
    _text(image, "EVERY SUMMER ENDS BUT ONE", 1056, 22, "#ffb98a", weight=1, spread=50)
    return _finish(image, "#9a6a9a", 4)


@_sample("The Best Duck", "A white duck in sunglasses and a red bow tie before bright yellow sunrays.")
def _the_best_duck() -> Image.Image:
    image = _gradient("#ffe03a", "#ffd21f", "#ffc400")
    draw, red, orange = ImageDraw.Draw(image), "#e01f4f", "#ff7a1a"
    for ray in range(0, 360, 20):
        draw.pieslice((-700, -580, 1500, 1620), ray, ray + 10, fill="#ffae00")
    _shape(image, "#1f1838", "400,700 580,740 720,840 790,1080 790,1400 10,1400 10,1080 80,840 220,740", rounds=2)
    _shape(image, "#ffffff", "290,715 510,715 400,1060")
    _shape(image, "#3b2f63", "286,712 400,1060 240,930 286,900 220,890", mirror=400)
    _shape(image, red, "400,790 292,738 286,790 292,848", mirror=400)
    _shape(image, "#ffffff", "400,390 350,320 374,330 384,285 430,390", rounds=1, mirror=400)
    _shape(image, "#fdf6ea", "290,600 510,600 500,760 400,800 300,760", rounds=1)
    draw.rounded_rectangle((376, 762, 424, 818), 14, fill="#b3123a")
    _ball(image, 400, 510, 168, "#ffffff", "#e6d3b0")
    _shape(image, "#c94f08", "300,620 500,620 470,690 400,704 330,690", rounds=2)
    _shape(image, orange, "270,622 340,580 400,556 460,580 530,622 470,655 400,642 330,655", rounds=2)
    lens = "222,446 400,452 400,474 386,480 372,540 320,566 256,546 236,480"
    _shape(image, "#17122b", lens, rounds=1, mirror=400)
    for at in (0, 168):
        _shape(image, "#6f62a8", "262,476 300,474 282,540 262,520", at=at)
    _text(image, "THE BEST", 66, 50, "#7a1030", weight=6, spread=40)
    _text(image, "DUCK", 132, 144, red, weight=14, spread=10)
    _text(image, "HE HAS THE RINGS BUT NOT A PLAN", 1064, 24, "#ffd21f", weight=2, spread=30)
    return _finish(image, "#a79bd0", 5)


@_sample("Pomble and the Borrowed Cloud", "A round furry creature on a green hill holds a cloud on a string.")
def _pomble() -> Image.Image:
    image, rng = _gradient("#38b6e0", "#8fe0ea", "#eafbd8", "#eafbd8"), np.random.default_rng(12)
    draw, coat, ink = ImageDraw.Draw(image), "#d9487a", "#3a1436"
    _glow(image, 150, 250, 200, "#8a7a30")
    draw.circle((150, 250), 80, fill="#fff2a0")
    draw.ellipse((250, 580, 1300, 1500), fill="#a6dc6c")
    draw.ellipse((-500, 540, 560, 1600), fill="#8fd05c")
    draw.ellipse((-300, 750, 1100, 2000), fill="#4fae4a")
    for x, y in zip(rng.uniform(30, 770, 30), rng.uniform(830, 885, 30), strict=True):
        draw.circle((x, y), 5, fill="#e4f59a")
    draw.line((542, 500, 580, 290), fill="#ffffff", width=4)
    for x, y, radius in ((480, 270, 60), (560, 230, 90), (650, 255, 70), (700, 285, 45), (590, 290, 50)):
        draw.circle((x, y), radius, fill="#ffffff")
    _shape(image, coat, "420,610 500,570 535,470 570,490 550,620 470,700", rounds=2)
    _shape(image, coat, "200,600 120,640 80,740 110,770 170,720 220,690", rounds=2)
    _shape(image, coat, "180,510 170,370 290,450", rounds=2, mirror=330)
    _shape(image, "#ffb02e", "200,830 210,780 310,780 320,830", rounds=2, mirror=330)
    _ball(image, 330, 620, 195, "#ffb48a", coat, fur=14)
    for x, blush in ((262, 214), (398, 446)):
        draw.ellipse((blush - 34, 634, blush + 34, 674), fill="#ff8a8a")
        draw.circle((x, 580), 56, fill="#ffffff")
        draw.circle((x + 14, 566), 32, fill=ink)
        draw.circle((x + 26, 552), 11, fill="#ffffff")
    draw.chord((275, 615, 385, 735), 0, 180, fill=ink)
    draw.chord((300, 690, 360, 760), 198, 342, fill="#ff6f7f")
    _text(image, "SMALL FEET AND A VERY BIG SKY", 72, 24, "#ffffff", weight=2, spread=40)
    _text(image, "POMBLE", 894, 120, "#ffffff", weight=16, spread=10)
    _text(image, "AND THE BORROWED CLOUD", 1044, 30, "#f4ffd0", weight=4, spread=20)
    return _finish(image, "#d8f0b0", 6)


SAMPLES: Final[tuple[Sample, ...]] = (
    _dead_lantern,
    _orbit_of_ossia,
    _salt_creek,
    _where_the_tide_waits,
    _the_best_duck,
    _pomble,
)
