/* Everything else that the driver's library exports: returns NVML_ERROR_NOT_SUPPORTED.
 *
 * The functions ignore their arguments, which the calling conventions of x86-64 and aarch64 allow.
 */
#include "sim.h"

#define NOT_SUPPORTED(function) \
    EXPORT int function(void); \
    int function(void) { \
        return sim_stub(#function); \
    }
#include "not_supported.inc"
