"""Keeps what arrives; writes result.json at the end."""

import json


class Operator:
    def __init__(self):
        self.seen = []

    def restore_state(self, state):
        self.seen = json.loads(state["seen"])

    def on_event(self, event, ctx):
        if event["type"] == "INPUT":
            self.seen.append(event["value"])
            ctx.save_state("seen", json.dumps(self.seen).encode())
        elif event["type"] == "STOP":
            with open("result.json", "w") as file:
                json.dump(self.seen, file)
