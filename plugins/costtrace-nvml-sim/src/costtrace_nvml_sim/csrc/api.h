/* Helpers that the exported functions share. */
#ifndef COSTTRACE_NVML_SIM_API_H
#define COSTTRACE_NVML_SIM_API_H

#include "sim.h"

int copy_text(const char *text, char *out, unsigned int size);
unsigned int shown_index(int index);

#endif
