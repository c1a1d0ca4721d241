// Errors go to the log of the TensorRT object that calls the plugin.
#pragma once
#include <NvInferRuntime.h>

#include <string>

namespace zerograsp {
namespace tensorrt {

// What setLoggerFinder() hands over; null: none.
void set_logger_finder(nvinfer1::ILoggerFinder* finder);

// To TensorRT's logger; to stderr where TensorRT gave none.
void log_error(const std::string& text) noexcept;

}  // namespace tensorrt
}  // namespace zerograsp
