"""The store's last figures of a run, and its dead letters: asked for when all nodes are done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from noderuntime.ipc.boundary import Boundary
from noderuntime.runtime.store_link import StoreLink
from noderuntime.runtime.summary import Figures, dead_letters


class LastFigures:
    """`nodes`: the figures by node, {} if the store could not be asked. `letters`: all dead letters of the run."""

    def __init__(self, link: StoreLink, boundary: Boundary) -> None:
        self.nodes: Figures = {}
        self.letters: list[dict[str, Any]] = []
        self._link = link
        self._boundary = boundary

    def ask(self, then: Callable[[], None]) -> None:
        """Ask for the figures. `then` is called when they are there, or cannot be had; dead letters may come later."""

        def answered(nodes: Figures) -> None:
            self.nodes = nodes
            self._boundary.call("asking for dead letters", self._ask_for_letters)
            then()

        self._link.request("figures", {}, lambda found: answered(found["nodes"]), lambda error, text: answered({}))

    def _ask_for_letters(self) -> None:
        for node in dead_letters(self.nodes):
            arguments = {"node": node, "uids": []}
            self._link.request("letters_show", arguments, self._keep, lambda error, text: None)

    def _keep(self, result: dict[str, Any]) -> None:
        self.letters.extend(result["letters"])
