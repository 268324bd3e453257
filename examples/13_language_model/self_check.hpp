// self_check.hpp: what the program does without arguments, and tests run.
#pragma once

// 0 if all is well. Runs on the model doclm-31m in the folder that the environment's NIBBLE_SHARED_MODELS names if it
// is there, else on a small one of random weights, written for this.
[[nodiscard]] int self_check();
