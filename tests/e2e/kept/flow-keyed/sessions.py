"""Counts by last digit, with a timer or a time to live by event time; time passes one second a number."""

from noderuntime import KeyedOperator


class Sessions(KeyedOperator):
    default = int
    ttl = 45.0

    def key_of(self, event):
        number = event["value"]
        return number if number % 7 == 0 else [number % 10, "digit"]

    def time_of(self, event):
        return float(event["value"])

    def on_key_event(self, key, event, state, ctx):
        if event["value"] % 3 == 0:
            ctx.set_timer(ctx.now + 33.0)
        ctx.send_output("out", ["event", key, state])
        return state + 1

    def on_timer(self, key, due, state, ctx):
        ctx.send_output("out", ["timer", key, due, state])
        return state

    def on_end(self, key, state, ctx):
        ctx.send_output("out", ["end", key, state])
