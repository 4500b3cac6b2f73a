/* Which instructions the matrix products of this library were compiled to. */
#include "product.h"

/* half: of bfloat16 operands, else of floats; whole: their rows fill tiles. */
const char *kernel_path(long half, long whole) {
#if AMX
    if (half && whole && tiles_work())
        return "AMX";
#endif
#if AVX512
#ifdef __AVX512BF16__
    if (half)
        return "AVX-512 bf16";
#endif
    return "AVX-512";
#elif defined(__AVX2__)
    return "AVX2";
#else
    return "baseline";
#endif
}
