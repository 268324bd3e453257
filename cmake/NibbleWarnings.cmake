# nibble_warnings: what nibble's own programs are compiled with. The headers are included as ordinary (not system)
# headers, so that they are held to the same.
add_library(nibble_warnings INTERFACE)
target_compile_options(nibble_warnings INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast)
if(NIBBLE_WERROR)
    target_compile_options(nibble_warnings INTERFACE -Werror)
endif()
