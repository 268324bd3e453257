# nibble_warnings: what nibble's own programs are compiled with. The headers are included as ordinary (not system)
# headers, so that they are held to the same.
add_library(nibble_warnings INTERFACE)
target_compile_options(nibble_warnings INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # GCC 12 warns of its own AVX-512 intrinsics (_mm512_undefined_*) wherever they are inlined, and of libstdc++'s
    # std::string; Clang's -Wuninitialized still looks at our code.
    target_compile_options(nibble_warnings INTERFACE -Wno-uninitialized -Wno-maybe-uninitialized -Wno-restrict)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC collects its garbage when the heap has grown by so much: a seventh of the time of our units, at 100.
    target_compile_options(nibble_warnings INTERFACE --param=ggc-min-expand=200 --param=ggc-min-heapsize=500000)
endif()
if(NIBBLE_WERROR)
    target_compile_options(nibble_warnings INTERFACE -Werror)
endif()
