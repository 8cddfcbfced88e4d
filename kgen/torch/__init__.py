"""PyTorch: trainable ConvFirst modules, and tuned kernels in the place of a model's blocks.

``kgen.torch.accelerate(model)`` replaces the blocks of a model in evaluation mode. Needs the extra ``torch``.
"""

from kgen.torch.accelerate import Report, Row, accelerate
from kgen.torch.modules import ConvFirst, ConvFirstNet, weights_of

__all__ = ["ConvFirst", "ConvFirstNet", "Report", "Row", "accelerate", "weights_of"]
