"""The conformance suite of State, which each kind must pass.

In a test module of the package that brings a kind:

    from noderuntime.testing.state_contract import StateContract

    class TestMine(StateContract):
        @pytest.fixture
        def configs(self, tmp_path):
            return lambda name: {"path": str(tmp_path / name)}     # the config of a store of that name

        kind = MyState

`configs(name)` gives the config of a store: the same one for the same name, an empty one for a new name; further fields
(`history`, `ttl`) are added by the suite. A store may be opened several times at once. Each test's name begins with the
number of the guarantee (noderuntime.state.base) that it holds the kind to.
"""

from __future__ import annotations

from noderuntime.testing.state_contract.exchange import Exchange
from noderuntime.testing.state_contract.kit import SOON_S, Configs, Stores, sync, values, wait_until
from noderuntime.testing.state_contract.marking import Marking
from noderuntime.testing.state_contract.merging import Merging
from noderuntime.testing.state_contract.reading import Reading
from noderuntime.testing.state_contract.watching import Watching
from noderuntime.testing.state_contract.writing import Writing


class StateContract(Writing, Merging, Reading, Exchange, Watching, Marking):
    """Derive from it, name the kind, and give a fixture `configs`."""


__all__ = ["SOON_S", "Configs", "StateContract", "Stores", "sync", "values", "wait_until"]
