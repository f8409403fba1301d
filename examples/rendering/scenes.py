"""The pictures. Each scene is a function of a seed and a size, and returns (H, W, 3) in 0..1."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .canvas import Floats, Random, grid, noise, over, palette, profile, rgb, smoothstep


def fractal(
    random: Random,
    width: int,
    height: int,
    centre: complex,
    span: float,
    colours: tuple[str, ...],
    julia: complex | None = None,
) -> Floats:
    """Escape times of z² + c, smooth; ``span`` is the height shown."""
    x, y = grid(width, height)
    plane = centre + span * ((x - width / height / 2) + 1j * (y - 0.5))
    z = (plane if julia is not None else np.zeros_like(plane)).ravel()
    c = np.full_like(z, julia) if julia is not None else plane.ravel()
    steps = np.full(z.size, np.nan)
    active = np.arange(z.size)
    for step in range(220):
        z = z * z + c
        radius = z.real**2 + z.imag**2
        out = radius > 256
        steps[active[out]] = step + 1 - np.log2(np.log2(radius[out]) / 2)
        keep = ~out
        active, z, c = active[keep], z[keep], c[keep]
        if not active.size:
            break
    depth = np.log1p(steps.reshape(height, width))
    low, high = np.nanpercentile(depth, (1, 99.7))
    tone = np.clip((depth - low) / (high - low), 0, 1) ** 0.8
    return over(palette(np.nan_to_num(tone), *colours), "#0a0a12", np.isnan(depth).astype(float))


def mountains(
    random: Random, width: int, height: int, sky: tuple[str, ...], rock: str, haze: str
) -> Floats:
    """Ridges one behind the other, each paler than the one before it, under a low sun."""
    x, y = grid(width, height)
    sun_x, sun_y = random.uniform(0.3, 0.7) * width / height, random.uniform(0.2, 0.32)
    image = palette(y / 0.65, *sky)
    clouds = noise(random, width, height, 2.5)
    image = over(image, "#ffffff", smoothstep(0.55, 0.95, clouds) * 0.25 * (1 - y))
    distance = np.hypot(x - sun_x, y - sun_y)
    image = over(image, "#fff3d6", np.exp(-((distance / 0.16) ** 1.2)) * 0.7)
    image = over(image, "#fffaf0", smoothstep(0.045, 0.041, distance))
    ridges = 6
    for ridge in range(ridges):
        near = ridge / (ridges - 1)
        line = profile(random, width, 4 + 2 * near, 7)
        edge = 0.38 + 0.5 * near**1.15 + (0.5 - line) * (0.30 - 0.10 * near)
        body = smoothstep(-0.0015, 0.0015, y - edge)
        colour = palette(np.full_like(y, near), haze, rock)
        mist = smoothstep(0, 0.3, y - edge) * (1 - near) * 0.55
        image = over(image, over(colour, haze, mist), body)
    return image


def sea_sunset(random: Random, width: int, height: int, sky: tuple[str, ...], sea: str) -> Floats:
    """A sun over the horizon and its road of light on the waves."""
    x, y = grid(width, height)
    horizon, middle = 0.56, width / height * random.uniform(0.35, 0.62)
    image = palette(y / horizon, *sky)
    bands = noise(random, width // 6, height, 5, 4)
    streaks = np.asarray(
        Image.fromarray(bands.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    )
    image = over(image, sky[0], smoothstep(0.55, 0.85, streaks) * 0.6 * (y < horizon))
    distance = np.hypot(x - middle, y - horizon + 0.09)
    image = over(image, "#ffe9b8", np.exp(-distance * 7) * 0.9)
    image = over(image, "#fff6dc", smoothstep(0.078, 0.074, distance))
    depth = np.clip((y - horizon) / (1 - horizon), 1e-3, 1)
    water = over(palette(depth, sky[-1], sea), sea, np.full_like(y, 0.35))
    ripple = np.sin(40 / (depth + 0.06) + 6 * noise(random, width, height, 9, 3))
    road = np.exp(-(((x - middle) / (0.05 + 0.22 * depth)) ** 2))
    water = over(water, "#ffdfa6", smoothstep(0.1, 0.9, ripple) * road * (1 - 0.55 * depth))
    water = over(water, "#ffffff", smoothstep(0.82, 1, ripple) * 0.10)
    return over(image, water, smoothstep(-0.001, 0.001, y - horizon))


def aurora(random: Random, width: int, height: int, lights: tuple[str, str]) -> Floats:
    """Curtains of light in a starry sky over a black treeline."""
    x, y = grid(width, height)
    image = palette(y, "#050716", "#0b1533", "#1d3557")
    stars = random.random((height, width)) > 0.9985
    glow = Image.fromarray((stars * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.1))
    image = image + np.minimum(np.asarray(glow)[..., None] / 255 * 7, 0.9) * (1 - y[..., None])
    for light in lights:
        wander = profile(random, width, 3, 3) * 0.3 + random.uniform(0.2, 0.4)
        above = wander - y
        rays = 0.35 + 0.65 * profile(random, width, 60, 3)
        curtain = np.where(above > 0, np.exp(-above / 0.16), np.exp(above / 0.02)) * rays
        image = image + rgb(light) * (curtain * 0.75)[..., None]
    trees = 0.92 - 0.09 * profile(random, width, 3, 3)
    spikes = np.abs(((x * 26 + 3 * np.sin(x * 7)) % 1) - 0.5) * 0.13
    return over(image, "#04060c", smoothstep(0, 0.003, y - trees - spikes))


def still_life(
    random: Random, width: int, height: int, fruits: tuple[str, ...], wall: str, table: str
) -> Floats:
    """Lit spheres on a table, with soft shadows and reflected light."""
    x, y = grid(width, height)
    aspect = width / height
    image = palette(np.clip(np.hypot(x - 0.25 * aspect, y - 0.2), 0, 1), wall, "#1a1613")
    edge = 0.6
    wood = noise(random, width // 16, height, 18, 3).astype(np.float32)
    rings = np.asarray(Image.fromarray(wood).resize((width, height), Image.Resampling.BICUBIC))
    board = palette(0.35 + 0.4 * rings - 0.25 * (y - edge), "#140c07", table, "#f1d7ae")
    board = over(board, "#000000", 0.5 * smoothstep(0.2, 1.1, np.hypot(x - aspect * 0.4, y - 0.7)))
    image = over(image, board, smoothstep(-0.002, 0.002, y - edge))
    light = np.array([-0.55, -0.65, 0.55])
    light /= np.linalg.norm(light)
    places = np.linspace(0.24, 0.76, len(fruits)) * aspect
    order = random.permutation(len(fruits))
    for place, index in sorted(zip(places, order, strict=True), key=lambda item: item[1]):
        radius = random.uniform(0.11, 0.16)
        foot = 0.72 + 0.05 * index / len(fruits) + random.uniform(0, 0.03)
        cx, cy = place + random.uniform(-0.02, 0.02), foot - radius
        shade = np.hypot((x - cx - radius * 0.75) / (radius * 1.7), (y - foot) / (radius * 0.42))
        image = over(image, "#080503", 0.75 * smoothstep(1.15, 0.1, shade) * (y > edge))
        u, v = (x - cx) / radius, (y - cy) / radius
        inside = 1 - u * u - v * v
        w = np.sqrt(np.clip(inside, 0, None))
        facing = u * light[0] + v * light[1] + w * light[2]
        diffuse = np.clip(facing, 0, None) ** 0.9
        bounce = np.clip(v, 0, None) * 0.18
        skin = 0.9 + 0.2 * noise(random, width, height, 30, 2)
        body = rgb(fruits[index]) * ((0.09 + 0.95 * diffuse + bounce) * skin)[..., None]
        half = light + np.array([0, 0, 1])
        half /= np.linalg.norm(half)
        gloss = np.clip(u * half[0] + v * half[1] + w * half[2], 0, None) ** 70
        body = body + gloss[..., None] * 0.7
        image = over(image, body, smoothstep(0, 0.02, inside))
    return image


def poster(
    random: Random, width: int, height: int, words: tuple[str, ...], inks: tuple[str, ...]
) -> Floats:
    """Circles, bars and a headline on paper, set on a grid."""
    picture = Image.new("RGB", (width, height), inks[0])
    draw = ImageDraw.Draw(picture)
    unit = height / 12
    cx, cy, r = width * 0.62, height * 0.36, height * 0.25
    draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=inks[1])
    draw.pieslice((cx - r, cy - r, cx + r, cy + r), 90, 270, fill=inks[2])
    draw.ellipse((cx - r / 3, cy - r / 3, cx + r / 3, cy + r / 3), fill=inks[0])
    for bar in range(5):
        top = height * 0.70 + bar * unit * 0.24
        draw.rectangle((unit, top, unit * (3 + bar * 1.1), top + unit * 0.11), fill=inks[3])
    draw.rectangle((unit, unit, unit * 1.25, height * 0.62), fill=inks[3])
    for row, word in enumerate(words):
        size = unit * (1.55 if row == 0 else 0.5)
        font = ImageFont.load_default(size=size)
        left, top = unit * 1.75, unit * 0.9 if row == 0 else height * 0.84 + (row - 1) * unit * 0.75
        draw.text((left, top), word, font=font, fill=inks[3])
    paper = 0.96 + 0.04 * noise(random, width, height, 60, 3)
    return np.asarray(picture) / 255 * paper[..., None]


def truchet(random: Random, width: int, height: int, inks: tuple[str, str, str]) -> Floats:
    """Quarter circles that join into endless ribbons."""
    x, y = grid(width, height)
    cells = 9
    u, v = (x * cells) % 1, (y * cells) % 1
    turned = random.random((cells + 1, int(cells * width / height) + 2)) > 0.5
    turn = turned[(y * cells).astype(int), (x * cells).astype(int)]
    u = np.where(turn, 1 - u, u)
    near = np.minimum(np.hypot(u, v), np.hypot(1 - u, 1 - v))
    away = np.abs(near - 0.5)
    image = palette((x + y) / 2, inks[0], inks[0], inks[1])
    image = over(image, "#000000", 0.25 * smoothstep(0.34, 0.2, away))
    image = over(image, inks[2], smoothstep(0.215, 0.2, away))
    return over(image, inks[0], smoothstep(0.085, 0.07, np.abs(away - 0.0)))


def star_tiles(random: Random, width: int, height: int, inks: tuple[str, str, str, str]) -> Floats:
    """Eight-pointed stars and crosses, glazed."""
    x, y = grid(width, height)
    cells = 6
    u, v = np.abs((x * cells) % 1 - 0.5), np.abs((y * cells) % 1 - 0.5)
    star = np.minimum(np.maximum(u, v), (u + v) / np.sqrt(2))
    image = palette(star / 0.5, inks[0], inks[1])
    image = over(image, inks[2], smoothstep(0.012, 0.006, np.abs(star - 0.355)))
    image = over(image, inks[3], smoothstep(0.235, 0.225, star))
    image = over(image, inks[2], smoothstep(0.012, 0.006, np.abs(star - 0.23)))
    image = over(image, inks[1], smoothstep(0.105, 0.095, star))
    glaze = noise(random, width, height, 7, 4)
    return image * (0.8 + 0.3 * glaze + 0.1 * (1 - y))[..., None]


def flow_field(random: Random, width: int, height: int, inks: tuple[str, ...]) -> Floats:
    """Thousands of fine strokes along one invisible current."""
    angle = noise(random, width, height, 1.6, 3) * 2 * np.pi * 1.3
    picture = Image.new("RGB", (width, height), inks[0])
    draw = ImageDraw.Draw(picture)
    count, steps, length = 2600, 42, height / 190
    points = random.random((count, 2)) * (width, height)
    bands = noise(random, width, height, 1.2, 2)
    shades = [tuple(int(c * 255) for c in rgb(ink)) for ink in inks[1:]]
    paths = [points.copy()]
    for _ in range(steps):
        col = np.clip(points[:, 0].astype(int), 0, width - 1)
        row = np.clip(points[:, 1].astype(int), 0, height - 1)
        heading = angle[row, col]
        points = points + length * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        paths.append(points.copy())
    traces = np.stack(paths, axis=1)  # (count, steps + 1, 2)
    for trace in traces:
        col, row = np.clip(trace[0].astype(int), 0, (width - 1, height - 1))
        tone = bands[row, col] + random.normal(0, 0.07)
        shade = shades[int(np.clip(tone, 0, 0.999) * len(shades))]
        stroke = int(random.choice([1, 2, 2, 3, 5]) * height / 900) + 1
        draw.line([tuple(point) for point in trace], fill=shade, width=stroke, joint="curve")
    return np.asarray(picture) / 255


def marble(random: Random, width: int, height: int, inks: tuple[str, ...]) -> Floats:
    """Noise bent by noise: veins of ink in water."""
    x, y = grid(width, height)
    first, second = noise(random, width, height, 2, 5), noise(random, width, height, 2, 5)
    field = noise(random, width, height, 1.5, 4)
    row = np.clip(((y + 0.35 * (first - 0.5)) * height).astype(int), 0, height - 1)
    col = np.clip(((x + 0.35 * (second - 0.5)) * height).astype(int), 0, width - 1)
    veins = 0.5 + 0.5 * np.sin((field[row, col] * 5 + first) * np.pi * 2)
    image = palette(0.75 * veins + 0.25 * second, *inks)
    return over(image, "#fff4d6", smoothstep(0.035, 0.0, np.abs(veins - 0.5)) * 0.7)


def bloom(random: Random, width: int, height: int, petals: tuple[str, ...], ground: str) -> Floats:
    """A many-petalled flower, each petal shaded from its throat."""
    x, y = grid(width, height)
    cx, cy = width / height * 0.52, 0.5
    u, v = x - cx, y - cy
    radius, theta = np.hypot(u, v), np.arctan2(v, u)
    back = noise(random, width, height, 3, 4)
    image = palette(0.75 * back + 0.25 * radius, "#0d1712", ground, "#0a0f14")
    rings = 7
    for ring in range(rings):
        outer = 0.44 * (1 - ring / rings) ** 0.85
        count = 13 if ring < 4 else 8
        phase = ring * 2.4
        wave = np.abs(np.cos((theta + phase) * count / 2))
        edge = outer * (0.62 + 0.38 * wave**0.7)
        tone = np.clip(radius / outer, 0, 1)
        colour = palette(tone, petals[0], petals[1], petals[2])
        colour = colour * (0.62 + 0.38 * wave)[..., None]
        shade = smoothstep(0.03, -0.005, np.abs(radius - edge - 0.012)) * (radius > edge) * 0.45
        image = over(image, "#000000", shade)
        image = over(image, colour, smoothstep(0.003, -0.003, radius - edge))
    stamens = noise(random, width, height, 80, 2)
    heart = palette(stamens, "#7a4b06", "#f7c948", "#fff3bf")
    return over(image, heart, smoothstep(0.052, 0.045, radius))


def skyline(random: Random, width: int, height: int, dusk: tuple[str, ...]) -> Floats:
    """Towers with lit windows before a dusk sky, mirrored in water."""
    x, y = grid(width, height)
    shore = 0.74
    image = palette(y / shore, *dusk)
    for layer in range(3):
        near = layer / 2
        left = -0.02
        while left < width / height:
            wide = random.uniform(0.04, 0.1) * (0.7 + 0.5 * near)
            top = shore - random.uniform(0.12, 0.42) * (1.15 - 0.45 * near)
            rows = slice(int(top * height), int(shore * height))
            cols = slice(max(0, int(left * height)), max(0, int((left + wide * 0.96) * height)))
            colour = palette(np.full((1, 1), near), dusk[-2], "#10131f")[0, 0]
            image[rows, cols] = colour
            if near > 0.4:
                u, v = (x[rows, cols] - left) / 0.011, (y[rows, cols] - top) / 0.016
                # A hash of the window's place decides whether somebody is at home.
                homes = np.sin(np.floor(v) * 12.9898 + np.floor(u) * 78.233 + left * 37.7)
                lit = (homes * 43758.5453 % 1 > 0.72) & (v % 1 > 0.35) & (u % 1 > 0.4)
                lit &= y[rows, cols] < shore - 0.02
                image[rows, cols] = over(image[rows, cols], "#ffd98a", lit * 0.85)
            left += wide * random.uniform(0.85, 1.3)
    start = int(shore * height)
    below = np.arange(start, height)
    mirrored = np.clip(2 * start - below, 0, height - 1)
    sway = (3 * np.sin(below * 0.35) * height / 1000).astype(int)
    water = np.stack(
        [np.roll(image[row], shift, axis=0) for row, shift in zip(mirrored, sway, strict=True)]
    )
    image[start:] = water * 0.55 + rgb(dusk[0]) * 0.12
    return image
