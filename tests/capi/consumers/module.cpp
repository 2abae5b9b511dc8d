// The consumer of module.c as C++.
#define NAME "consumer_cpp"
#define INIT PyInit_consumer_cpp
#include "module.c"
