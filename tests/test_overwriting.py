"""What a run does to a folder that has content: it is asked first, and nothing of an earlier run is gone on with."""

import pickle

import pytest
from conftest import make_vit, same_weights
from helpers import KillAt, Killed

from hf_backdoor import InputError, PoisonConfig, load_defense, load_trigger, poison, purify
from hf_backdoor.defenses.fine_tuning import FineTuning
from hf_backdoor.purification import check_output, default_arguments


class Dying(FineTuning):
    """Is interrupted."""

    def callbacks(self):
        return [KillAt(13)]


@pytest.fixture
def run(images, processor, tmp_path):
    def run(model, folder="out", steps=20, defense="fine_tuning", resume=None, **more):
        args = default_arguments(
            load_defense("fine_tuning"), tmp_path / folder, max_steps=steps, save_strategy="steps", save_steps=10,
            per_device_train_batch_size=16, use_cpu=True, resume_from_checkpoint=resume, eval_strategy="no",
        )  # fmt: skip
        given = {"defense": defense, "processing_class": processor, "args": args, "output_dir": tmp_path / folder}
        return purify(model, images, **given | more)

    return run


def test_a_run_that_overwrites_another_is_resumed_from_its_own_checkpoints(run, tmp_path):
    run(make_vit(), steps=30)
    with pytest.raises(Killed):
        run(make_vit(seed=1), defense=Dying(), overwrite=True)
    resumed = run(make_vit(seed=1), resume="last")
    assert resumed.results["training"]["resumed_from"] == "checkpoint-10"
    assert same_weights(resumed.model, run(make_vit(seed=1), "whole").model)


def test_a_run_that_goes_on_from_another_folder_asks_before_it_overwrites(run, tmp_path):
    run(make_vit())
    kept = tmp_path / "valuable" / "model.safetensors"
    kept.parent.mkdir()
    kept.write_bytes(b"of the user")
    for resume in (str(tmp_path / "out" / "checkpoint-10"), False):
        with pytest.raises(InputError, match="output=.*valuable': is in use"):
            run(make_vit(), "valuable", resume=resume)
    assert kept.read_bytes() == b"of the user"


def test_overwriting_leaves_what_is_not_of_a_model(run, tmp_path):
    out = tmp_path / "out"
    (out / "pytorch_model_study").mkdir(parents=True)
    stale = ["adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors"]
    for name in ["adapter_notes.md", *stale]:
        (out / name).write_text("of the user")
    run(make_vit(), steps=2, overwrite=True)
    left = {path.name for path in out.iterdir()}
    assert {"adapter_notes.md", "pytorch_model_study"} <= left and not left & set(stale)


def test_a_folder_that_lies_in_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output=.*cannot be made, for .*file is a file"):
        check_output(tmp_path / "file" / "sub", overwrite=True)


def test_an_error_comes_back_whole_from_another_process(images):
    error = pickle.loads(pickle.dumps(InputError("rate", 2, "must be less")))
    assert (error.field, error.value, error.mend) == ("rate", 2, "must be less")
    with pytest.raises(InputError, match="size=20"):
        poison(images, PoisonConfig(load_trigger("badnets", size=20), rate=0.1), num_proc=2)
