"""The store's last figures of a run, and its dead letters: asked for when all nodes are done."""

from __future__ import annotations

from collections.abc import Callable

from noderuntime.ipc.boundary import Boundary
from noderuntime.ipc.store_records import Figures, ShownLetter, ShownLetters, result
from noderuntime.runtime.store_link import StoreLink
from noderuntime.runtime.summary import FiguresByNode, dead_letters


class LetterOfRun(ShownLetter):
    """A dead letter, with the id of its run."""

    run_id: str


class LastFigures:
    """`nodes`: the figures by node, {} if the store could not be asked. `letters`: all dead letters of the run, each
    with the `run_id` of its run."""

    def __init__(self, link: StoreLink, boundary: Boundary) -> None:
        self.nodes: FiguresByNode = {}
        self.letters: list[LetterOfRun] = []
        self._run_id = ""
        self._link = link
        self._boundary = boundary

    def ask(self, then: Callable[[], None]) -> None:
        """Ask for the figures. `then` is called when they are there, or cannot be had; dead letters may come later."""

        def answered(nodes: FiguresByNode, run_id: str = "") -> None:
            self.nodes, self._run_id = nodes, run_id
            self._boundary.call("asking for dead letters", self._ask_for_letters)
            then()

        self._link.request(
            "figures", {}, result(Figures), lambda found: answered(found["nodes"], found["run_id"]),
            lambda error, text: answered({}),
        )  # fmt: skip

    def _ask_for_letters(self) -> None:
        for node in dead_letters(self.nodes):
            arguments = {"node": node, "uids": []}
            self._link.request("letters_show", arguments, result(ShownLetters), self._keep, lambda error, text: None)

    def _keep(self, found: ShownLetters) -> None:
        self.letters.extend({**letter, "run_id": self._run_id} for letter in found["letters"])
