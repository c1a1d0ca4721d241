# nvcc and its libraries, for every folder that builds with CUDA: languages and imported targets belong to the folder that
# asks for them.
set(ZEROGRASP_CUDA_ARCHITECTURES 87-real CACHE STRING "Compute capabilities: 87-real is Jetson Orin, 110-real is Jetson Thor")
option(ZEROGRASP_WERROR "Warnings in the sources of CUDA and TensorRT are errors" ON)
set(CMAKE_CUDA_ARCHITECTURES ${ZEROGRASP_CUDA_ARCHITECTURES})
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
