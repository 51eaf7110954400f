/* The same as random_test.c, compiled as a release is: millions of steps in seconds. */
#define RANDOM_STEPS 2000000
#include "random_test.c"
