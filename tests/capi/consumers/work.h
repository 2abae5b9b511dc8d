/* What work.c offers to module.c. */
#include <csoftmax/csoftmax.h>

#ifdef __cplusplus
extern "C"
#endif
int log_odds(const csm_api *csm, ptrdiff_t rows, ptrdiff_t n, const float *x, float *y);
