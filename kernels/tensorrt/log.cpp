#include "tensorrt/log.h"

#include <atomic>
#include <cstdio>

namespace zerograsp {
namespace tensorrt {
namespace {
std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};
}

void set_logger_finder(nvinfer1::ILoggerFinder* finder) { logger_finder = finder; }

void log_error(const std::string& text) noexcept {
  nvinfer1::ILoggerFinder* finder = logger_finder;
  nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
  if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, text.c_str());
  else std::fprintf(stderr, "%s\n", text.c_str());
}

}  // namespace tensorrt
}  // namespace zerograsp
