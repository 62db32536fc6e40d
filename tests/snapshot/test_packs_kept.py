"""Snapshots of mailboxes with packs: what is acknowledged, split and buried between two of them is right in both."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.kit import CHAIN, MB, Net, commit, send, staged
from support.spaces import BOOT, content, keeper

from noderuntime.errors import SnapshotCorrupt
from noderuntime.snapshot import format as formats
from noderuntime.snapshot.blobs import BlobBackend
from noderuntime.snapshot.directory import DirectoryBlobs
from noderuntime.snapshot.restore import restore_newest
from noderuntime.space import keys
from noderuntime.space.environment import FORMAT_PACKS, Space, open_space, scan
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


def test_a_snapshot_with_packs_has_a_format_that_earlier_versions_refuse(
    backend: BlobBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net(tmp_path / "run", CHAIN)
    a = net.begin("a")
    send(a, 1)
    mine = keeper(net.space, backend)
    assert mine.take("asked").manifest.format == formats.FORMAT
    send(a, 2, 3)
    taken = mine.take("asked").manifest
    assert taken.format == formats.FORMAT_PACKS
    other = restored(backend, tmp_path / "other")
    assert other.facts()["format"] == FORMAT_PACKS
    with other.read() as txn:
        assert [keys.is_pack(key) for key, _ in scan(txn, b"m")] == [False, True]
    other.close()
    net.close()
    monkeypatch.setattr(formats, "FORMATS", (1, 2, 3))
    with pytest.raises(SnapshotCorrupt, match="it has format 4, and this noderuntime reads 1, 2, 3"):
        formats.parse_manifest("2", taken.pack())
