// Macros that platform headers are known to define: windows.h, <complex.h>, <sys/sysmacros.h>, R and GNU dialects.
#define min(a, b) hostile_min(a, b)
#define max(a, b) hostile_max(a, b)
#define small char
#define near
#define far
#define I (hostile_imaginary_unit)
#define interface struct
#define IN
#define OUT
#define ERROR 0
#define major(device) hostile_major(device)
#define minor(device) hostile_minor(device)
#define unix 1
#define linux 1
