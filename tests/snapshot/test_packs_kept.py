"""Snapshots of mailboxes with packs: what is acknowledged, split and buried between two of them is right in both."""

from __future__ import annotations

import random
from pathlib import Path

import msgpack
import pytest
from support.kit import CHAIN, MB, Net, commit, send, staged
from support.spaces import BOOT, content, keeper

from noderuntime.errors import SnapshotCorrupt
from noderuntime.snapshot import format as formats
from noderuntime.snapshot.blobs import BlobBackend
from noderuntime.snapshot.directory import DirectoryBlobs
from noderuntime.snapshot.restore import restore_newest
from noderuntime.space import keys
from noderuntime.space.environment import FORMATS, Space, open_space, scan
from noderuntime.space.mailbox import messages


@pytest.fixture
def backend(tmp_path: Path) -> BlobBackend:
    return BlobBackend(DirectoryBlobs(tmp_path / "kept"), tmp_path / "kept")


def restored(backend: BlobBackend, folder: Path, number: int | None = None) -> Space:
    assert restore_newest(backend, folder, 16 * MB, BOOT, number)
    return open_space(folder)


def waiting(space: Space) -> list[tuple[bytes, bytes]]:
    with space.read() as txn:
        return list(messages(txn, keys.mailbox(1, 0)))


@pytest.mark.parametrize("seed", range(6))
def test_each_of_many_incremental_snapshots_holds_the_messages_of_its_cut(
    backend: BlobBackend, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    net = Net(tmp_path / "run", CHAIN)
    a, b = net.begin("a"), net.begin("b")
    commit(b, staged(b, private={f"k{number}": b"v" * 900 for number in range(100)}))  # so that increments are worth it
    mine = keeper(net.space, backend, keep=100)
    cuts = {}
    for _ in range(12):
        for _ in range(chance.randint(1, 3)):
            send(a, *(["x" * chance.choice([1, 500, 4000])] * chance.choice([1, 2, 9])))
            found = net.messages(b)
            what = chance.choice(["front", "any", "bury"])
            if what == "bury":
                place = list(keys.parse_message(chance.choice(found)[0])[1:])
                claimed = net.claim("b", "raised", True, [place], max_attempts=1)
                b = type(b)(net.space, net.wirings["b"], claimed["incarnation"])
            else:
                some = found[:5] if what == "front" else chance.sample(found, min(len(found), 3))
                assert commit(b, *[staged(b, ack=message) for message in some]) == len(some)
        taken = mine.take("asked").manifest
        cuts[taken.number] = content(net.space), waiting(net.space)
    assert sum(not item.manifest.full for item in backend.snapshots() if item.manifest) >= 6
    for number, (everything, messages_then) in cuts.items():
        other = restored(backend, tmp_path / f"other-{number}", number)
        assert content(other) == everything
        assert waiting(other) == messages_then
        other.close()
    net.close()


def test_a_snapshot_of_an_earlier_space_has_the_format_that_its_version_reads(
    backend: BlobBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(tmp_path / "run", CHAIN)
    a = net.begin("a")
    mine = keeper(net.space, backend)
    send(a, 1)
    send(a, 2, 3)
    found = {}
    for of_space in FORMATS:  # as a command on the dead letters of an interrupted run would keep it
        with net.space.write() as txn:
            txn.put(keys.fact("format"), msgpack.packb(of_space))
        taken = mine.take("asked").manifest
        found[of_space] = taken.format
        other = restored(backend, tmp_path / f"other-{of_space}")
        assert other.facts()["format"] == of_space
        with other.read() as txn:
            assert [keys.is_pack(key) for key, _ in scan(txn, b"m")] == [False, True]
        other.close()
    net.close()
    assert found == {1: 3, 2: 4, 3: 5}
    monkeypatch.setattr(formats, "FORMATS", (1, 2, 3, 4))
    with pytest.raises(SnapshotCorrupt, match="it has format 5, and this noderuntime reads 1, 2, 3, 4"):
        formats.parse_manifest("3", taken.pack())
