import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from saymask.export import checkpoint
from saymask.export.checkpoint import open_checkpoint
from saymask.export.dialect import match
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam
from saymask.export.models.sam2 import SAM2_SPECS
from saymask.export.models.sam2_video import SAM2_VIDEO_SPECS
from saymask.export.systems.evf_sam import load
from saymask.export.weights import map_tensors

from .official import official_state, write_official

VARIANTS = sorted(set(EVF_SAM_SPECS) - {"mini"})
