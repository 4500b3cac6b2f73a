"""Floating point operations of the matrix products, a multiplication and an addition counting as two.

A dilated convolution of K taps from C to 2G channels is a product of K C x 2G a sample, and the residual (and skip)
product one of G x (C + S). Conditions are projected at frame rate, `hop` times less often, and are left out; so are
the gates, which are no matrix products.
"""

from distill.student import StudentSize
from wavenet.model import WaveNetConfig
from wavenet.network import StackConfig


def layer_flops(residual: int, gate: int, skip: int, kernel: int) -> int:
    """Of one layer and sample; `gate` counts both halves."""
    return 2 * kernel * residual * gate + 2 * (gate // 2) * (residual + skip)


def stack_flops(stack: StackConfig) -> int:
    return stack.layers * layer_flops(stack.residual, stack.gate, stack.skip, stack.kernel)


def student_flops(size: StudentSize) -> int:
    """Of the layers, a sample: 60 x (2 x 3 x 64 x 128 + 2 x 64 x 64) = 3.44 million for the paper's student."""
    return sum(stack_flops(stack) for stack in size.stacks())


def teacher_flops(config: WaveNetConfig, outputs: int) -> int:
    """Of the layers and the two products of the head, a sample; `outputs` is P, the distribution's parameters."""
    width = config.stack.skip or config.stack.residual
    return stack_flops(config.stack) + 2 * width * width + 2 * width * outputs


def teacher_step_flops(config: WaveNetConfig, outputs: int) -> int:
    """Of a training step, a sample: a product forward is one backward for its input and one for its weight."""
    return 3 * teacher_flops(config, outputs)


def distillation_step_flops(
    student: StudentSize, teacher: WaveNetConfig, outputs: int, counted: int, heard: int, context: int
) -> int:
    """The same of the student, and of the frozen teacher two (forward, and backward for its input), of a whole crop.

    Args:
        counted: samples in the loss.
        heard: samples before them that the teacher hears.
        context: samples before them that there are. Every flow computes what it and those after it read.
    """
    samples = heard + counted
    flops = 2 * samples * teacher_flops(teacher, outputs)
    for stack in reversed(student.stacks()):
        samples = min(samples + stack.receptive_field, context + counted)
        flops += 3 * samples * stack_flops(stack)
    return flops
