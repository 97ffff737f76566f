import logging

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from hn.data import PromptDataModule
from hn.data.download import DownloadError
from hn.data.resumable import EpochShuffle

N_PROMPTS, BATCH_SIZE = 11, 2  # 5 batches an epoch, one prompt is left over
EPOCH = N_PROMPTS // BATCH_SIZE


class Recorder(LightningModule):
    """Writes down the prompts it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, ...]] = []
        self.validated: list[tuple[int, ...]] = []

    def training_step(self, batch):
        self.seen.append(tuple(batch["index"].tolist()))
        return self.weight * batch["index"].sum()

    def validation_step(self, batch):
        self.validated.append(tuple(batch["index"].tolist()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class StopInStep(Callback):
    """Fails in the middle of a batch, as a crash would."""

    def __init__(self, at: int):
        self.at = at

    def on_before_backward(self, trainer, module, loss):
        if len(module.seen) == self.at:
            raise RuntimeError("crash")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join(f"prompt {i}" for i in range(N_PROMPTS)))
    (tmp_path / "val.txt").write_text("a dog\na cat\na bench\n")
    return {"train": str(tmp_path / "train.txt"), "val": str(tmp_path / "val.txt")}


@pytest.fixture
def make_trainer(tmp_path):
    def make(**options):
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": tmp_path,
        }
        if not options.get("callbacks"):
            defaults["enable_checkpointing"] = False
        return Trainer(**(defaults | options))

    return make


def fit(trainer, files, ckpt_path=None, **options) -> list[tuple[int, ...]]:
    module = Recorder()
    trainer.fit(module, PromptDataModule(**files, batch_size=BATCH_SIZE, **options), ckpt_path=ckpt_path)
    return module.seen


@pytest.fixture
def uninterrupted(make_trainer, files):
    return fit(make_trainer(max_epochs=3), files)


def test_epochs_are_full_shuffled_and_differ(uninterrupted):
    epochs = [uninterrupted[start : start + EPOCH] for start in range(0, 3 * EPOCH, EPOCH)]
    for epoch in epochs:
        assert len({index for batch in epoch for index in batch}) == EPOCH * BATCH_SIZE
        assert all(len(batch) == BATCH_SIZE for batch in epoch)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_seed_decides(make_trainer, files, uninterrupted):
    assert fit(make_trainer(max_epochs=3), files) == uninterrupted
    other = fit(make_trainer(max_epochs=3), files, seed=1)
    assert other != uninterrupted
    assert other[:EPOCH] != uninterrupted[EPOCH : 2 * EPOCH]  # seed + 1 is not epoch + 1


@pytest.mark.parametrize("at", [1, EPOCH - 1, EPOCH, EPOCH + 1, 2 * EPOCH, 3 * EPOCH - 1])
@pytest.mark.parametrize("by_steps", [False, True])
def test_resuming_continues_the_sequence(make_trainer, files, uninterrupted, tmp_path, at, by_steps):
    """Interrupted within an epoch or at its end, a run gets exactly the remaining batches."""
    first = make_trainer(max_steps=at, callbacks=[ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=at)])
    assert fit(first, files) == uninterrupted[:at]
    until = {"max_steps": 3 * EPOCH, "max_epochs": -1} if by_steps else {"max_epochs": 3}
    rest = fit(make_trainer(**until), files, ckpt_path=tmp_path / f"step={at}.ckpt")
    assert rest == uninterrupted[at:]


@pytest.mark.parametrize("at", [1, EPOCH, EPOCH + 1])
@pytest.mark.parametrize("val_check_interval", [2, 1.0])
def test_resuming_after_a_crash_repeats_the_lost_batch(
    make_trainer, files, uninterrupted, tmp_path, at, val_check_interval
):
    options = {"max_epochs": 3, "val_check_interval": val_check_interval, "num_sanity_val_steps": 0}
    saver = OnExceptionCheckpoint(tmp_path, "crash")
    with pytest.raises(RuntimeError, match="crash"):
        fit(make_trainer(callbacks=[StopInStep(at), saver], **options), files)
    rest = fit(make_trainer(**options), files, ckpt_path=tmp_path / "crash.ckpt")
    assert rest == uninterrupted[at - 1 :]


@pytest.mark.parametrize("step", [4, EPOCH + 2])
def test_resuming_from_a_checkpoint_of_validation(make_trainer, files, uninterrupted, tmp_path, step):
    options = {"max_epochs": 3, "val_check_interval": 2, "num_sanity_val_steps": 0}
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1)  # saves after each validation
    assert fit(make_trainer(callbacks=[saver], **options), files) == uninterrupted
    rest = fit(make_trainer(**options), files, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert rest == uninterrupted[step:]


@pytest.mark.parametrize("at", [3, EPOCH, EPOCH + 2])
def test_resuming_with_workers_and_accumulation(make_trainer, files, uninterrupted, tmp_path, at):
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=at)
    fit(make_trainer(max_steps=at, callbacks=[saver]), files, num_workers=1)
    trainer = make_trainer(max_epochs=2, accumulate_grad_batches=2)
    rest = fit(trainer, files, ckpt_path=tmp_path / f"step={at}.ckpt", num_workers=1)
    assert rest == uninterrupted[at : 2 * EPOCH]


def test_resuming_from_the_end_of_an_epoch(make_trainer, files, uninterrupted, tmp_path):
    fit(make_trainer(max_epochs=1, callbacks=[ModelCheckpoint(tmp_path, "last")]), files, num_workers=1)
    rest = fit(make_trainer(max_epochs=3), files, ckpt_path=tmp_path / "last.ckpt", num_workers=1)
    assert rest == uninterrupted[EPOCH:]


def test_resuming_with_another_order_warns(make_trainer, files, tmp_path):
    fit(make_trainer(max_steps=2, callbacks=[ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2)]), files)
    with pytest.warns(UserWarning, match="resumes with other seed than"):
        fit(make_trainer(max_epochs=1), files, ckpt_path=tmp_path / "step=2.ckpt", seed=5)


def test_limited_epochs_start_anew(make_trainer, files, uninterrupted):
    seen = fit(make_trainer(max_epochs=2, limit_train_batches=2), files)
    assert seen == uninterrupted[:2] + uninterrupted[EPOCH : EPOCH + 2]


def test_overfit_batches_works(make_trainer, files):
    seen = fit(make_trainer(max_epochs=2, overfit_batches=1), files)
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_ranks_share_an_epoch_without_overlap(files):
    module = PromptDataModule(**files, batch_size=BATCH_SIZE)
    module.setup("fit")
    dataset = module.datasets["train"]
    ranks = [list(EpochShuffle(dataset, 2, num_replicas=3, rank=rank)) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [3, 3, 3]
    assert len(set().union(*ranks)) == 9
    (one,) = ([*EpochShuffle(dataset, 2)],)
    assert [one[i] for i in range(9)] == [ranks[i % 3][i // 3] for i in range(9)]


def test_evaluation_keeps_the_order(make_trainer, files):
    module, trainer = Recorder(), make_trainer()
    trainer.validate(module, PromptDataModule(**files, eval_batch_size=2), verbose=False)
    assert module.validated == [(0, 1), (2,)]


def test_test_and_predict_sets(files):
    data = PromptDataModule(test=files["val"], predict=[files["val"], files["train"]], limit_predict=4, batch_size=8)
    data.setup("test")
    data.setup("predict")
    assert [batch["prompt"] for batch in data.test_dataloader()] == [["a dog", "a cat", "a bench"]]
    assert [batch["prompt"] for batch in data.predict_dataloader()] == [["a dog", "a cat", "a bench", "prompt 0"]]


def test_training_without_validation(make_trainer, files):
    assert len(fit(make_trainer(max_epochs=1), {"train": files["train"]})) == EPOCH


def test_evaluation_prompts_are_left_out_of_training(files, tmp_path, caplog):
    (tmp_path / "test.txt").write_text("Prompt 3.\nprompt  7\nprompt 99\n")
    options = dict(files, test=str(tmp_path / "test.txt"), limit_test=1)
    with caplog.at_level(logging.INFO):
        data = PromptDataModule(**options)
        data.setup("fit")
    assert data.datasets["train"].prompts == [f"prompt {i}" for i in range(N_PROMPTS) if i not in (3, 7)]
    assert "2 training prompts are evaluation prompts too and are left out; 9 remain" in caplog.text
    data = PromptDataModule(**options, exclude_eval_prompts=False)
    data.setup("fit")
    assert len(data.datasets["train"]) == N_PROMPTS


def test_errors_say_what_to_set(files):
    with pytest.raises(ValueError, match="set `test` of PromptDataModule"):
        PromptDataModule(**files).setup("test")
    with pytest.raises(ValueError, match="batch_size 0"):
        PromptDataModule(**files, batch_size=0)
    with pytest.raises(ValueError, match="no prompt set 'genevl'; did you mean geneval"):
        PromptDataModule(train="genevl")
    with pytest.raises(ValueError, match="the weight of geneval must be a positive number"):
        PromptDataModule(predict={"geneval": 0.0})
    data = PromptDataModule(**files, batch_size=12)
    data.setup("fit")
    with pytest.raises(ValueError, match="11 training prompts do not fill one batch of 12"):
        data.train_dataloader()


@pytest.fixture
def mix(tmp_path):
    """Weights of two files: an epoch holds 6 rows once and 3 of 7: 9 in all, 4 batches and one row left over."""
    paths = {}
    for name, n, weight in (("once", 6, 1.0), ("part", 7, 0.4)):
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(f"{name} {number}\n" for number in range(n)))
        paths[str(path)] = weight
    return {"train": paths}


@pytest.mark.parametrize(("at", "num_workers"), [(1, 0), (4, 2), (6, 0), (11, 0)])
def test_resuming_a_weighted_mix_continues_the_sequence(make_trainer, mix, tmp_path, at, num_workers):
    whole = fit(make_trainer(max_epochs=3), mix)
    assert len(whole) == 3 * 4
    first = make_trainer(max_steps=at, callbacks=[ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=at)])
    assert fit(first, mix, num_workers=num_workers) == whole[:at]
    rest = fit(make_trainer(max_epochs=3), mix, ckpt_path=tmp_path / f"step={at}.ckpt", num_workers=num_workers)
    assert rest == whole[at:]


@pytest.mark.parametrize("resumed_with_weights", [False, True])
def test_resuming_with_other_weights_warns(make_trainer, mix, tmp_path, resumed_with_weights):
    runs = [mix, {"train": list(mix["train"])}]
    if resumed_with_weights:
        runs.reverse()
    fit(make_trainer(max_steps=2, callbacks=[ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2)]), runs[0])
    with pytest.warns(UserWarning, match="resumes with other weights than"):
        fit(make_trainer(max_epochs=1), runs[1], ckpt_path=tmp_path / "step=2.ckpt")


def test_one_prompt_a_batch(make_trainer, mix):
    module = Recorder()
    make_trainer(max_epochs=1).fit(module, PromptDataModule(**mix, batch_size=1))
    assert [len(batch) for batch in module.seen] == [1] * 9


def test_what_is_left_out_is_said(files, tmp_path, caplog):
    (tmp_path / "web.txt").write_text("a dog\nA nude\na horse\nA horse.\n")
    options = {"train": str(tmp_path / "web.txt"), "val": files["val"], "deduplicate": True, "filter_unsafe": True}
    with caplog.at_level(logging.INFO):
        data = PromptDataModule(**options)
        data.setup("fit")
    assert data.datasets["train"].prompts == ["a horse"]
    for part in (
        "1 training prompts have unsafe words",
        "1 training prompts are repeated",
        "are evaluation prompts too",
    ):
        assert f"{part} and are left out; 1 remain" in caplog.text
    assert "val prompts" not in caplog.text


def test_training_on_an_evaluation_set_warns(files):
    data = PromptDataModule(train=["examples", files["train"]])
    with pytest.warns(UserWarning, match="Training on prompts that are for evaluation: examples/test"):
        data.setup("fit")
    assert len(data.datasets["train"]) == 144 + N_PROMPTS


@pytest.fixture
def words(server, make_manifest):
    """Three sets at a server, of a training, a validation and a test split."""
    contents = {"train": b"a dog\na cat\na cow\n", "val": b"a horse\n", "test": b"a cow\n"}
    server.files |= {f"{split}.txt": content for split, content in contents.items()}
    files = {f"{split}.txt": (split, content) for split, content in contents.items()}
    make_manifest({"words": files}, urls=[server.url()])
    return server


@pytest.mark.parametrize(
    ("stage", "fetched"),
    [("fit", {"train.txt", "val.txt", "test.txt"}), ("validate", {"val.txt"}), ("test", {"test.txt"})],
)
def test_named_sets_are_fetched_where_they_are_needed(make_trainer, words, own_store, stage, fetched):
    data = PromptDataModule(train="words", val="words", test="words", predict="words", batch_size=1)
    trainer = make_trainer(max_epochs=1)
    trainer.state.fn = TrainerFn(stage)
    data.trainer = trainer
    data.prepare_data()
    assert {path for path, _ in words.asked} == fetched
    data.setup(stage)
    assert {path.name for path in (own_store / "words").glob("*.txt")} == fetched
    if stage == "fit":
        assert data.datasets["train"].prompts == ["a dog", "a cat"]  # the test prompt is left out


def test_training_fetches_by_itself(make_trainer, words):
    assert len(fit(make_trainer(max_epochs=1), {"train": "words"})) == 1
    assert len(words.asked) == 1


def test_sets_that_cannot_be_had_stop_a_run_before_it_starts(make_trainer, words, tmp_path):
    words.files.clear()
    module = Recorder()
    with pytest.raises(DownloadError, match="`hn prompts pull words/train` fetches it"):
        make_trainer(max_epochs=1).fit(module, PromptDataModule(train="words"))
    assert module.seen == []


def test_the_folder_of_named_sets_is_an_option(words, tmp_path, own_store):
    data = PromptDataModule(test="words", prompts_folder=str(tmp_path / "other"))
    data.prepare_data()
    data.setup("test")
    assert data.datasets["test"].prompts == ["a cow"]
    assert not own_store.exists()
