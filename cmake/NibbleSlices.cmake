# nibble_slices(VARIABLE COUNT FOLDER HEADER INSTANTIATION): writes COUNT sources into FOLDER of the build, each of which includes
# HEADER and instantiates one share of a long list, and sets VARIABLE to their paths. In INSTANTIATION {} is the share's number.
function(nibble_slices variable count folder header instantiation)
    set(paths "")
    math(EXPR last "${count} - 1")
    foreach(slice RANGE ${last})
        string(REPLACE "{}" "${slice}" line "${instantiation}")
        set(path "${CMAKE_CURRENT_BINARY_DIR}/${folder}/slice_${slice}.cpp")
        file(CONFIGURE OUTPUT "${path}" CONTENT "#include \"${header}\"\n\ntemplate ${line};\n" @ONLY)
        list(APPEND paths "${path}")
    endforeach()
    set(${variable} "${paths}" PARENT_SCOPE)
endfunction()
