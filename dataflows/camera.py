"""A camera that needs no hardware: a bright ball on a noisy picture, a uint8 frame (height, width) at each tick."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from noderuntime import Node

RADIUS = 8
TURN_S = 4.0  # the ball goes round once


def frame(at_s: float, width: int, height: int, noise: np.random.Generator) -> NDArray[np.uint8]:
    """The picture `at_s` seconds after the start."""
    x = width * (0.5 + 0.35 * math.cos(math.tau * at_s / TURN_S))
    y = height * (0.5 + 0.35 * math.sin(math.tau * at_s / TURN_S))
    rows, columns = np.ogrid[:height, :width]
    picture = noise.integers(0, 80, (height, width), dtype=np.uint8)
    picture[(columns - x) ** 2 + (rows - y) ** 2 <= RADIUS**2] = 255
    return picture


def main() -> None:
    noise = np.random.default_rng(7)
    with Node() as node:
        width, height = node.config.get("width", 320), node.config.get("height", 240)
        number = 0
        for event in node:
            if event.type == "INPUT":
                picture = frame(number / 30, width, height, noise)
                node.send_output("frame", picture, {"frame": number, "taken": event.metadata["due"]})
                number += 1


if __name__ == "__main__":
    main()
