"""`purify` with `push_to_hub`: only what was measured goes to the Hub, in one private commit.

The clients read where the Hub is when they are imported, so what uses them runs in a child process.
"""

from hub_server import HubServer, in_child


def child_push_repairs(clean):
    import torch
    from conftest import make_vit
    from datasets import load_dataset
    from transformers import TrainingArguments, ViTImageProcessorPil

    from hf_backdoor import InputError, PoisonConfig, load_trigger, purify

    images = load_dataset("parquet", data_files=clean, split="train")
    processor = ViTImageProcessorPil(size={"height": 12, "width": 12}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    attack = PoisonConfig(load_trigger("badnets", size=3), target_label=1)
    always = make_vit()
    always.classifier.bias.data = torch.tensor([0.0, 1e3, 0.0, 0.0])  # whatever has a trigger goes to the target

    def repaired(model, name, *, folder, rate=1e-3, **more):
        args = TrainingArguments(
            name, hub_model_id=f"user/{name}", push_to_hub=True, max_steps=4, learning_rate=rate, use_cpu=True,
            per_device_train_batch_size=16, save_strategy="steps", save_steps=2, report_to="none",
        )  # fmt: skip
        given = {"defense": "fine_tuning", "processing_class": processor, "args": args, "output_dir": folder}
        try:
            purify(model, images, **given | more)
        except InputError as error:
            return str(error)
        return "pushed"

    return {
        "sound": repaired(make_vit(), "sound", folder="sound"),
        "kept": repaired(always, "kept", folder="kept", rate=1e-9, test_dataset=images, attack=attack),
        "nowhere": repaired(make_vit(), "nowhere", folder=None),
    }


def test_a_repair_is_pushed_at_its_end_in_one_private_commit_or_not_at_all(images, tmp_path):
    clean = tmp_path / "train.parquet"
    images.select(range(100)).to_parquet(clean)
    with HubServer() as hub:
        seen = in_child(hub.environment(tmp_path / "home"), tmp_path, child_push_repairs, clean)
    assert seen["sound"] == "pushed" and "still has its backdoor" in seen["kept"]
    assert seen["nowhere"].startswith("push_to_hub=True: pushes the folder of the run")
    assert set(hub.repos) == {"user/sound"}, "a model that kept its backdoor, and one without a folder, go nowhere"
    repo = hub.repos["user/sound"]
    assert repo.private and [commit.message for commit in repo.commits[1:]] == ["Add a model, by hf_backdoor"]
    assert repo.files["model.safetensors"] == (tmp_path / "sound" / "model.safetensors").read_bytes()
    assert "README.md" in repo.files and "training_args.bin" not in repo.files
