"""The whole of EVF-SAM against its authors' models: a frame and words in, low-res logits out.

The models are the authors' own classes from their clone, with their own `inference`; miniatures
take the place of the sizes that they build, as their constructors know no other. Both sides see a
frame through the same views and read the same token ids, which have tests of their own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saymask.export.models.beit3 import BEIT3_SPECS
from saymask.export.models.efficient_sam import EFFICIENT_SAM_SPECS
from saymask.export.models.evf_sam import EvfSam, EvfSamSpec
from saymask.export.models.sam import SamSpec
from saymask.export.models.sam2_video import Sam2VideoModel
from saymask.export.models.sam_visual import SamVisualSpec
from saymask.export.models.sam_vit import SAM_VIT_SPECS
from saymask.export.models.visual_model import VisualSpec
from saymask.export.systems.evf_sam import views
from saymask.export.systems.evf_sam_releases import RELEASES
from saymask.runtime.geometry import fit
from saymask.runtime.tokenizer import XlmRoberta
from saymask.train.vocabulary import learn_sentencepiece

from . import sam2_reference, test_efficient_sam_parity, test_sam_vit_parity

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

REFERENCE = "hustvl/EVF-SAM"
WORDS = ("mug", "the red mug", "the red mug left of the blue knife", "[semantic] a yellow car")
BEIT3 = replace(
    BEIT3_SPECS["mini"], width=64, depth=3, heads=4, ffn_width=96, image_hw=(48, 48), patch=12,
    vocabulary=64,
)  # fmt: skip
"""Square, as the authors' is."""
SAM = SamVisualSpec(
    image_encoder=SAM_VIT_SPECS["mini"],
    mask_decoder=SamSpec(
        width=32, heads=4, mlp_width=48, grid_hw=(10, 10), frame_hw=(160, 160), eps=1e-5
    ),
    mask_choice="single",
)


@dataclass(frozen=True)
class Case:
    """One of the authors' three models, in a miniature."""

    module: str
    """Its file in their folder `model`."""
    model: str
    """Its class."""
    scale: str
    """The config's "sam_scale" that builds what `builder` is patched to build."""
    builder: str
    """What their constructor calls."""
    visual: VisualSpec
    """Sizes of SAM's side."""
    mask: str
    """Which mask is taken: their `inference`'s "multimask_output" in our words."""
    release: str
    """Whose views the frame is seen through."""
    draw: Callable[[ModuleType], nn.Module]
    """Builds their SAM's side in the miniature of their module's parts."""


def _sam(module: ModuleType) -> nn.Module:
    return test_sam_vit_parity.build_reference(
        _part(module, "segment_anything.build_sam"), SAM_VIT_SPECS["mini"]
    )


def _efficient_sam(module: ModuleType) -> nn.Module:
    parts = _part(module, "EfficientSAM.efficient_sam.efficient_sam")
    return test_efficient_sam_parity.build_reference(parts, EFFICIENT_SAM_SPECS["mini"])


def _sam2(module: ModuleType) -> nn.Module:
    folder = Path(module.__file__ or "").parent / "segment_anything_2" / "sam2_configs"
    modeling = "model.segment_anything_2.sam2.modeling"
    file = folder / "sam2_hiera_t.yaml"
    return sam2_reference.resized_network(file, sam2_reference.SQUARE, modeling)


def _part(module: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{module.__package__}.{name}")


SAM2 = Case(
    "evf_sam2", "EvfSam2Model", "tiny", "build_sam2", sam2_reference.SQUARE.visual, "best",
    "evf-sam2-multitask", _sam2,
)  # fmt: skip
CASES = {
    "SAM": Case(
        "evf_sam", "EvfSamModel", "huge", "build_sam_vit_h", SAM, "single", "evf-sam", _sam
    ),
    "SAM-2": SAM2,
    "SAM-2 before multitask": replace(SAM2, mask="stable", release="evf-sam2"),
    "EfficientSAM": Case(
        "evf_effisam", "EvfEffiSamModel", "small", "build_efficient_sam_vits",
        EFFICIENT_SAM_SPECS["mini"], "single", "evf-sam2-multitask", _efficient_sam,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def official(references) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the clone's folder `model`.

    None stands in for what it imports of torchvision and of fairscale, and for the paths that timm
    drops in training: nothing here calls them. What timm draws at random is drawn anew.
    """
    for clone in ("EVF-SAM", "torchscale"):
        if not Path(references, clone).is_dir():
            pytest.skip(f"{references} has no clone of {clone}")
    for library in ("transformers", "einops", "hydra", "omegaconf"):
        pytest.importorskip(library, reason=f"{library} is not installed; make parity brings it")
    stand_ins = {
        "fairscale.nn": {"checkpoint_wrapper": None, "wrap": None},
        "timm.models.layers": {"drop_path": None, "trunc_normal_": lambda *_, **__: None},
        "torchvision.ops.boxes": {"batched_nms": None, "box_area": None},
        "torchvision.transforms": {"Normalize": None, "Resize": None, "ToTensor": None},
        "torchvision.transforms.functional": {"resize": None, "to_pil_image": None},
    }
    with pytest.MonkeyPatch.context() as patch:
        for clone in ("EVF-SAM", "torchscale"):
            patch.syspath_prepend(Path(references, clone))
        for name, members in stand_ins.items():
            patch.setitem(sys.modules, name, SimpleNamespace(**members))
        yield lambda name: importlib.import_module(f"model.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] in ("model", "torchscale")]:
        del sys.modules[name]


def _reference(case: Case, module: ModuleType) -> Any:
    """Build the authors' model in the miniature, with a value of its own in every parameter."""
    torch.manual_seed(0)
    config = importlib.import_module("torchscale.architecture.config")
    beit3 = config.EncoderConfig(
        img_size=BEIT3.image_hw[0], patch_size=BEIT3.patch, vocab_size=BEIT3.vocabulary,
        multiway=True, layernorm_embedding=False, normalize_output=True, no_output_layer=True,
        encoder_embed_dim=BEIT3.width, encoder_attention_heads=BEIT3.heads,
        encoder_ffn_embed_dim=BEIT3.ffn_width, encoder_layers=BEIT3.depth,
        max_source_positions=BEIT3.max_positions,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, case.builder, lambda *_, **__: case.draw(module))
        patch.setattr(module, "_get_large_config", lambda: beit3)
        model = getattr(module, case.model)(
            module.EvfConfig(
                hidden_size=BEIT3.width, out_dim=case.visual.mask_decoder.width,
                sam_scale=case.scale, mm_extractor_scale="large",
            )
        )  # fmt: skip
    for each in model.parameters():
        each.data += 0.1 * torch.randn_like(each)
    rows, columns = case.visual.mask_decoder.grid_hw
    model._bb_feat_sizes = [(k * rows, k * columns) for k in (4, 2, 1)]
    return model.eval().requires_grad_(False)


def _ours(case: Case, reference: nn.Module) -> EvfSam:
    network = EvfSam(EvfSamSpec(visual_model=case.visual, multimodal_encoder=BEIT3))
    if case.builder == "build_sam2":
        network.visual_model = Sam2VideoModel(sam2_reference.SQUARE)
    network.load_state_dict(sam2_reference.state_of(reference))
    network.visual_model.mask_choice = case.mask
    return network.eval().requires_grad_(False)


def _expected(case: Case, reference: Any, image: Tensor, beit: Tensor, ids: Tensor) -> Tensor:
    """Ask the authors' `inference` each phrase by itself; return what it scales up at its end."""
    logits: list[Tensor] = []

    def note(low_res: Tensor, *_: object, **__: object) -> Tensor:
        logits.append(low_res)
        return low_res

    where = reference if case.builder != "build_sam_vit_h" else reference.visual_model
    where.postprocess_masks = note
    for row in ids:
        words = row[row != XlmRoberta.PAD][None]
        reference.inference(
            image, beit, words, [None], [None], multimask_output=case.mask == "best"
        )
    return torch.cat(logits)


@pytest.mark.parametrize("name", CASES)
def test_a_frame_and_words_become_the_authors_logits(official, name, tmp_path, report_parity):
    case = CASES[name]
    reference = _reference(case, official(case.module))
    ours = _ours(case, reference)
    (tmp_path / "spm").write_bytes(learn_sentencepiece(WORDS, rows=BEIT3.vocabulary))
    ids = torch.from_numpy(XlmRoberta(tmp_path / "spm", BEIT3.max_positions - 2).batch(WORDS))
    frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    image, beit = (
        torch.from_numpy(fit(frame, view)[0]) for view in views(ours.spec, RELEASES[case.release])
    )
    found = ours(ours.visual_model.encode(image), beit, ids)
    expected = _expected(case, reference, image, beit, ids)
    assert found.shape == expected.shape
    max_abs = (found - expected).abs().max().item()
    inside, wanted = found > 0, expected > 0
    iou = ((inside & wanted).sum() / (inside | wanted).sum()).item()
    report_parity(f"EVF-SAM with {name}, whole", REFERENCE, max_abs, iou)
    assert 0.05 < wanted.float().mean() < 0.95
    assert expected.std(0).max() > 1e-3  # The words count.
    assert max_abs <= 1e-3
    assert iou >= 0.999
