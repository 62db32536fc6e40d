"""Follows the ball with an alpha-beta filter: sends {x, y, speed, frames} (pixels, pixels a second).

Position and speed change with every frame, so they are saved compactly, under one key: 48 bytes.
The filter: Brookner, Tracking and Kalman Filtering Made Easy (1998), section 1.2.
"""

from __future__ import annotations

import math
from struct import Struct

from noderuntime import Context, Event

ALPHA, BETA = 0.5, 0.2
STATE = Struct("<5dq")


class Operator:
    def __init__(self) -> None:
        self.x = self.y = self.speed_x = self.speed_y = 0.0
        self.seen_s = 0.0
        self.frames = 0

    def restore_state(self, state: dict[str, bytes]) -> None:
        self.x, self.y, self.speed_x, self.speed_y, self.seen_s, self.frames = STATE.unpack(state["ball"])

    def on_event(self, event: Event, ctx: Context) -> None:
        if event["type"] != "INPUT":
            return
        found = event["value"]
        self.follow(found["x"], found["y"], found["taken"].timestamp())
        saved = (self.x, self.y, self.speed_x, self.speed_y, self.seen_s, self.frames)
        ctx.save_state("ball", STATE.pack(*saved))
        speed = math.hypot(self.speed_x, self.speed_y)
        track = {"x": round(self.x), "y": round(self.y), "speed": round(speed), "frames": self.frames}
        ctx.send_output("track", track)

    def follow(self, x: float, y: float, now_s: float) -> None:
        elapsed_s = now_s - self.seen_s
        if not self.frames or elapsed_s > 1:  # the first sight, or out of sight for too long
            self.x, self.y = x, y
        elif elapsed_s > 0:
            off_x = x - (self.x + self.speed_x * elapsed_s)
            off_y = y - (self.y + self.speed_y * elapsed_s)
            self.x, self.y = x - (1 - ALPHA) * off_x, y - (1 - ALPHA) * off_y
            self.speed_x += BETA * off_x / elapsed_s
            self.speed_y += BETA * off_y / elapsed_s
        self.seen_s = now_s
        self.frames += 1
