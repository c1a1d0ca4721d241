"""RealSense cameras of the D400 family through librealsense."""
