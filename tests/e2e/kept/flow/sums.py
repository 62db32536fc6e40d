"""Running sums in the private state and a count in the shared KVS. 13 cannot be added; each 20th payload is large."""

from noderuntime.merges import Add


class Operator:
    def __init__(self):
        self.total = 0

    def restore_state(self, state):
        self.total = int(state["total"])

    def on_event(self, event, ctx):
        if event["type"] != "INPUT":
            return
        number = event["value"]
        if number == 13:
            raise ValueError("cannot add 13")
        self.total += number
        ctx.save_state("total", str(self.total).encode())
        ctx.kvs_merge("added", Add(1))
        ctx.send_output("sum", {"number": number, "total": self.total, "ballast": bytes(200_000 * (number % 20 == 0))})
