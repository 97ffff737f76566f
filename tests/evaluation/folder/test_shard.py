import pytest

from hn.evaluation.folder.shard import WorkShard, shard_files


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shards_have_every_piece_once_and_are_as_even_as_can_be(count):
    shares = [WorkShard(number, count).of(range(7)) for number in range(count)]
    assert sorted(piece for share in shares for piece in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_shard_is_given_or_torchrun_s():
    assert WorkShard.parse("2/3") == WorkShard(2, 3)
    assert str(WorkShard(2, 3)) == "2/3"
    assert WorkShard.of_environment({}) == WorkShard.of_environment({"RANK": "3"}) == WorkShard(0, 1)
    assert WorkShard.of_environment({"RANK": "3", "WORLD_SIZE": "4"}) == WorkShard(3, 4)


def test_files_of_shards_are_beside_the_whole_one(tmp_path):
    path = tmp_path / "a[1].jsonl"
    assert WorkShard().file(path) == path
    files = [WorkShard(number, 2).file(path) for number in range(2)]
    for file in (*files, path, tmp_path / "b.shard-0-of-2.jsonl"):
        file.touch()
    assert shard_files(path) == files


@pytest.mark.parametrize(
    ("text", "message"),
    [("3/3", "There is no shard 3/3; of 3 they are 0 to 2"), ("1", "like 0/4; not '1'"), ("0/0", "not '0/0'")],
)
def test_shards_that_cannot_be_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        WorkShard.parse(text)
