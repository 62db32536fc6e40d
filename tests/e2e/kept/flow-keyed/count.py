"""0 to 59, and 60 to 100 once the file `go` exists."""

from pathlib import Path

from noderuntime import Source


class Operator(Source):
    def produce(self, position, ctx):
        number = 0 if position is None else position + 1
        if number > 100:
            return Source.END
        if number >= 60 and not Path("go").exists():
            return Source.idle(0.02)
        ctx.send_output("n", number)
        return number
