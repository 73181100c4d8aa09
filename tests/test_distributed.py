"""Two processes give what one gives, and a launch that silently is no launch is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


HERE = Path(__file__).parent
RECIPES = HERE.parent / "recipes"


def launch(*arguments, check=True, **environment):
    """Runs `accelerate launch` in a process of its own."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.distributed
def test_two_processes_equal_one(images, tmp_path):
    """Weights, learning rates, the peaks that were searched for, and every measure."""
    images.save_to_disk(tmp_path / "images")
    script = HERE / "distributed_script.py"
    two = RECIPES / "accelerate_configs" / "two_processes.yaml"
    launch("--config_file", two, script, tmp_path, 4)
    launch("--config_file", RECIPES / "accelerate_configs" / "one_process.yaml", script, tmp_path, 8)
    assert (tmp_path / "world2").is_dir(), "the world size was not really 2"
    one, both = (json.loads((tmp_path / f"world{n}" / "results.json").read_text()) for n in (1, 2))
    assert both["found"] == pytest.approx(one["found"], rel=1e-4)
    assert both["rates"] == pytest.approx(one["rates"], rel=1e-4)
    assert both["shares"] == pytest.approx(one["shares"], rel=1e-4)
    weights = [torch.load(tmp_path / f"world{n}" / "weights.pt") for n in (1, 2)]
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-5


@pytest.mark.distributed
def test_a_recipe_runs_in_two_processes_and_gives_the_single_process_result(images, tmp_path):
    images.to_parquet(tmp_path / "images.parquet")
    config = tmp_path / "recipe.yaml"

    def recipe(folder, batch_size):
        config.write_text(
            f"dataset: {tmp_path / 'images.parquet'}\narchitecture: vit\narchitecture_args: {{image_size: 12, "
            "patch_size: 4, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32, "
            "hidden_dropout_prob: 0.0, attention_probs_dropout_prob: 0.0}\nattack: badnets\nmax_steps: 10\n"
            f"learning_rate: 1e-2\noptim: sgd\nper_device_train_batch_size: {batch_size}\noutput_dir: {folder}\n"
        )
        return config

    results = {}
    for name, batch_size in (("two_processes", 4), ("one_process", 8)):
        folder = tmp_path / name
        accelerate_config = RECIPES / "accelerate_configs" / f"{name}.yaml"
        launch("--config_file", accelerate_config, RECIPES / "train.py", "--config", recipe(folder, batch_size))
        results[name] = json.loads((folder / "results.json").read_text())
    assert results["two_processes"]["training"]["processes"] == 2
    assert results["two_processes"]["training"]["batch_size"] == results["one_process"]["training"]["batch_size"] == 8
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / name / "model.safetensors") for name in results)
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-5


def test_processes_that_do_not_find_each_other_are_refused(tmp_path):
    """What a launcher leaves behind when the Trainer would quietly train alone in every process."""
    script = tmp_path / "alone.py"
    script.write_text(
        "from hf_backdoor.commands import training_options\n"
        "training_options.torch.accelerator.is_available = lambda: True\n"  # so that it does not choose the CPU
        "from hf_backdoor.commands.training_options import TrainerOptions\n"
        "from hf_backdoor import InputError\n"
        "try:\n    TrainerOptions('run')\nexcept InputError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, timeout=120)
    assert "num_processes=2: processes were launched and 1 of them found each other" in done.stdout, done.stderr[-2000:]
