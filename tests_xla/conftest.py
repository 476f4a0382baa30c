"""A CPU stands in for the TPU. What these variables say is read when the XLA runtime starts, so they are set before anything imports it."""
import os

os.environ.setdefault("PJRT_DEVICE", "CPU")
# Compiling is nearly all that these tests do, and slow code is good enough for them: a third of the time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("NONSPEECH7K_PROGRESS", "off")
