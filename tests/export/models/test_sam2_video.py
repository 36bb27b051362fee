from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from saymask.export.models.sam2 import SAM2_SPECS
from saymask.export.models.sam2_video import SAM2_VIDEO_SPECS, Sam2VideoModel, drawn, video_spec

OFFICIAL = {
    "tiny": (38_945_986, 468),
    "small": (46_043_842, 516),
    "base-plus": (80_833_666, 612),
    "large": (224_430_130, 900),
}
MINI = SAM2_VIDEO_SPECS["mini"]
SMALL = replace(
    MINI,
    visual=replace(
        MINI.visual,
        image_encoder=replace(
            MINI.visual.image_encoder,
            image_hw=(64, 96),
            width=8,
            depths=(1, 1, 1, 1),
            out_width=32,
        ),
        mask_decoder=replace(
            MINI.visual.mask_decoder,
            width=32,
            heads=4,
            mlp_width=24,
            grid_hw=(4, 6),
            frame_hw=(64, 96),
        ),
    ),
    memory=replace(MINI.memory, width=8, layers=2, mlp_width=24, slots=4, pointers=5),
)


@pytest.fixture(scope="module")
def network() -> Sam2VideoModel:
    """A small SAM-2 in which no parameter is trivial; don't change it."""
    torch.manual_seed(0)
    network = Sam2VideoModel(SMALL).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.fixture
def past() -> dict[str, torch.Tensor]:
    """What two objects left: three memories in four slots, three of five pointers."""
    generator = torch.Generator().manual_seed(1)
    return {
        "image_embedding": torch.randn(1, 32, 4, 6, generator=generator),
        "memories": torch.randn(2, 4, 8, 4, 6, generator=generator),
        "ages": torch.tensor([[0, 2, -1, 1]] * 2),
        "pointers": torch.randn(2, 5, 32, generator=generator),
        "is_pointer": torch.tensor([[True, False, True, True, False]] * 2),
    }


@pytest.mark.parametrize("size", OFFICIAL)
def test_official_sizes(size):
    with torch.device("meta"):
        network = Sam2VideoModel(SAM2_VIDEO_SPECS[size])
    parameters, tensors = OFFICIAL[size]
    state = network.state_dict()
    assert sum(each.numel() for each in network.parameters()) == parameters
    assert len(state) == tensors
    assert sum(each.numel() for each in network.obj_ptr_proj.parameters()) == 197_376
    for name, shape in {
        "maskmem_tpos_enc": (7, 1, 1, 64),
        "no_mem_embed": (1, 1, 256),
        "no_mem_pos_enc": (1, 1, 256),
        "no_obj_ptr": (1, 256),
        "mask_downsample.weight": (1, 1, 4, 4),
    }.items():
        assert state[name].shape == shape, name


@pytest.mark.parametrize("size", SAM2_VIDEO_SPECS)
def test_the_parts_of_a_size_fit_each_other(size):
    spec = SAM2_VIDEO_SPECS[size]
    assert spec.visual.mask_decoder.width % spec.memory.width == 0
    assert spec.memory.width % 4 == 0


def test_empty_slots_are_as_if_they_were_not(network, past):
    found = network.attend_memory(**past)
    littered = past | {"memories": past["memories"].clone(), "pointers": past["pointers"].clone()}
    littered["memories"][:, 2] = 1e4
    littered["pointers"][:, [1, 4]] = -1e4
    assert torch.equal(network.attend_memory(**littered), found)
    used, given = [0, 1, 3], [0, 2, 3]
    without = {
        "image_embedding": past["image_embedding"],
        "memories": past["memories"][:, used],
        "ages": past["ages"][:, used],
        "pointers": past["pointers"][:, given],
        "is_pointer": past["is_pointer"][:, given],
    }
    torch.testing.assert_close(network.attend_memory(**without), found, atol=1e-5, rtol=1e-5)


def test_a_memory_is_known_by_its_age_and_not_by_its_slot(network, past):
    found = network.attend_memory(**past)
    order = [3, 2, 0, 1]
    moved = past | {"memories": past["memories"][:, order], "ages": past["ages"][:, order]}
    torch.testing.assert_close(network.attend_memory(**moved), found, atol=1e-5, rtol=1e-5)
    older = past | {"ages": torch.tensor([[0, 3, -1, 1]] * 2)}
    assert (network.attend_memory(**older) - found).abs().max() > 1e-3


def test_the_prompted_frame_has_the_last_encoding_and_the_newest_the_first(network, past):
    seen = []
    hook = network.memory_attention.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[2])
    )
    network.attend_memory(**past)
    hook.remove()
    place = seen[0][0, :, 0] - network.maskmem_tpos_enc[[3, 1, 0, 0], 0, 0]
    for slot in (1, 3):
        torch.testing.assert_close(place[slot], place[0])


def test_objects_do_not_see_each_other(network, past):
    together = network.attend_memory(**past)
    frame = {"image_embedding": past["image_embedding"]}
    for row in range(2):
        own = {name: each[row : row + 1] for name, each in past.items()} | frame
        torch.testing.assert_close(
            network.attend_memory(**own), together[row : row + 1], atol=1e-5, rtol=1e-4
        )


def _tracked(network, object_logit: float) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Track on noise with an object head that answers `object_logit`; also the best tokens."""
    features = network.encode(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(2)))
    head = network.sam_mask_decoder.pred_obj_score_head
    hook = head.register_forward_hook(lambda *_: torch.full((2, 1), object_logit))
    found = network.track(features, network.no_prompt(2))
    best = network.answer(features, network.no_prompt(2)).best()
    hook.remove()
    assert torch.equal(found[1], best.iou)
    return found, best.tokens[:, 0]


def test_a_present_object_leaves_its_best_masks_token(network):
    (logits, _, pointers, _), tokens = _tracked(network, 0.1)
    assert logits.shape == (2, 1, 16, 24)
    assert (logits > -1024).all()
    torch.testing.assert_close(pointers, network.obj_ptr_proj(tokens))


def test_an_absent_object_leaves_no_pixel_and_the_pointer_of_none(network):
    (logits, _, pointers, object_logits), _ = _tracked(network, -0.1)
    assert (logits == -1024).all()
    torch.testing.assert_close(pointers, network.no_obj_ptr.expand(2, -1))
    assert (object_logits < 0).all()


def test_a_frame_without_a_prompt_has_two_points_that_are_none(network):
    encoder = network.sam_prompt_encoder
    expected = encoder.points(torch.zeros(3, 2, 2), torch.full((3, 2), -1))
    assert torch.equal(network.no_prompt(3), expected)


def test_a_mask_points_to_its_object_alone(network):
    features = network.look(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(2)))
    masks = torch.zeros(3, 1, 64, 96)
    masks[0, :, 10:30, 10:30] = masks[1, :, 30:60, 50:90] = 1
    head = network.sam_mask_decoder.pred_obj_score_head
    hook = head.register_forward_hook(lambda *_: torch.tensor([[0.1], [-0.1], [0.1]]))
    first, unseen, empty = network.point(features, masks)
    hook.remove()
    assert (first - network.no_obj_ptr).abs().max() > 1e-2
    assert torch.equal(unseen, network.no_obj_ptr[0]), "the decoder does not see it"
    assert torch.equal(empty, network.no_obj_ptr[0]), "there is nothing to see"
    alone = network.point(features, masks[:1])
    torch.testing.assert_close(alone[0], first, atol=1e-5, rtol=1e-4)


def test_what_has_a_memory():
    assert video_spec(SAM2_SPECS["large"]) == SAM2_VIDEO_SPECS["large"]
    assert video_spec(SMALL.visual) is None


@pytest.mark.parametrize("is_prompted", [True, False])
def test_masks_are_remembered_between_minus_and_plus_ten(network, is_prompted):
    logits = torch.randn(2, 1, 16, 24, generator=torch.Generator().manual_seed(3))
    seen = []
    hook = network.memory_encoder.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[1])
    )
    embedding = torch.randn(1, 32, 4, 6)
    mask = (drawn(logits) > 0).float() if is_prompted else drawn(logits).sigmoid()
    memory = network.encode_memory(embedding, mask)
    hook.remove()
    assert memory.shape == (2, 8, 4, 6)
    frame = functional.interpolate(logits, (64, 96), mode="bilinear")
    probability = (frame > 0).float() if is_prompted else frame.sigmoid()
    torch.testing.assert_close(seen[0], 20 * probability - 10)
