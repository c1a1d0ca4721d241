// Control of the stand-in from Python: order of execution, and what went wrong.
#include "cuda_on_cpu.h"

extern "C" {
// 0: blocks and threads in ascending order; anything else: shuffled with this seed.
__attribute__((visibility("default"))) void cuda_on_cpu_seed(unsigned seed) { cuda_on_cpu::machine().seed = seed; }
__attribute__((visibility("default"))) const char* cuda_on_cpu_fault() { return cuda_on_cpu::machine().last_fault.c_str(); }
__attribute__((visibility("default"))) unsigned long cuda_on_cpu_launches() { return cuda_on_cpu::machine().launches; }
}
