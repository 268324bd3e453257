// nibble.hpp: everything, in the order of the journey. (io/ and adapt/ are included by those who want them.)
#pragma once

#include <nibble/version.hpp>

#include <nibble/core/array_view.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/config.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/shared_ptr.hpp>
#include <nibble/core/status.hpp>
#include <nibble/core/view.hpp>
#include <nibble/core/workspace.hpp>

#include <nibble/element/codebook.hpp>
#include <nibble/element/element.hpp>
#include <nibble/element/float16.hpp>
#include <nibble/element/float32.hpp>
#include <nibble/element/integer.hpp>
#include <nibble/element/minifloat.hpp>
#include <nibble/element/power_of_two.hpp>

#include <nibble/granularity/per_channel.hpp>
#include <nibble/granularity/per_group.hpp>
#include <nibble/granularity/per_tensor.hpp>
#include <nibble/granularity/two_level.hpp>

#include <nibble/scheme/formats.hpp>
#include <nibble/scheme/scheme.hpp>

#include <nibble/tensor/packed.hpp>
#include <nibble/tensor/quantized.hpp>

#include <nibble/dispatch/fixed.hpp>

#include <nibble/epilogue/activation.hpp>
#include <nibble/epilogue/bias.hpp>
#include <nibble/epilogue/destination.hpp>
#include <nibble/epilogue/epilogue.hpp>
#include <nibble/epilogue/gate.hpp>
#include <nibble/epilogue/low_rank.hpp>
#include <nibble/epilogue/residual.hpp>
#include <nibble/epilogue/scale.hpp>

#include <nibble/attend.hpp>
#include <nibble/attention/mass.hpp>
#include <nibble/cache/transform.hpp>
#include <nibble/gemm.hpp>
#include <nibble/gemm_integer.hpp>
#include <nibble/kv_cache.hpp>
#include <nibble/pack.hpp>
#include <nibble/prepare.hpp>
#include <nibble/quantize.hpp>
#include <nibble/requantize.hpp>

#include <nibble/transform/hadamard.hpp>
