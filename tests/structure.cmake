# Tests about the headers as such, not about what they compute; each folder says its part.
#
# Several of them call the compiler by themselves. They read its arguments from two response files:
#   include.rsp   what any user of nibble passes: the language and the include paths
#   flags.rsp     the same and this build's own flags
list(JOIN CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES "|" implicit)
string(REGEX REPLACE "([.+])" "\\\\\\1" implicit "${implicit}")
set(xsimd "$<FILTER:$<TARGET_PROPERTY:nibble::xsimd,INTERFACE_INCLUDE_DIRECTORIES>,EXCLUDE,^(${implicit})/?$>")
set(include_flags "-std=c++20\n-I${PROJECT_SOURCE_DIR}/include\n$<$<BOOL:${xsimd}>:-isystem$<JOIN:${xsimd},\n-isystem>\n>")
string(TOUPPER "${CMAKE_BUILD_TYPE}" build_type)
string(REPLACE " " "\n" build_flags "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${build_type}}")
file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/include.rsp" CONTENT "${include_flags}")
file(GENERATE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/flags.rsp" CONTENT "${include_flags}${build_flags}\n")
set(include_rsp "${CMAKE_CURRENT_BINARY_DIR}/include.rsp")
set(flags_rsp "${CMAKE_CURRENT_BINARY_DIR}/flags.rsp")
set(skipped 77)

# One name for what is common to all of them.
function(nibble_structure_test name)
    add_test(NAME "${name}" COMMAND ${ARGN})
    set_tests_properties("${name}" PROPERTIES LABELS structure SKIP_RETURN_CODE ${skipped})
endfunction()

nibble_structure_test(layers "${CMAKE_COMMAND}" "-DROOT=${PROJECT_SOURCE_DIR}"
    -P "${PROJECT_SOURCE_DIR}/cmake/check_layers.cmake")
nibble_structure_test(rules "${CMAKE_COMMAND}" "-DROOT=${PROJECT_SOURCE_DIR}"
    -P "${PROJECT_SOURCE_DIR}/cmake/check_rules.cmake")
nibble_structure_test(readme "${CMAKE_COMMAND}" "-DROOT=${PROJECT_SOURCE_DIR}"
    -P "${PROJECT_SOURCE_DIR}/cmake/check_readme.cmake")
nibble_structure_test(format bash "${PROJECT_SOURCE_DIR}/cmake/check_format.sh" "${PROJECT_SOURCE_DIR}" ${skipped})

foreach(folder headers odr fail consume codegen)
    add_subdirectory(${folder})
endforeach()
add_subdirectory("${PROJECT_SOURCE_DIR}/bench/compile_time" compile_time)
