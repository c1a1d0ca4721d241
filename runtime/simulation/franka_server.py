"""A simulated Franka with objects before it, as a process of its own: franky-sim's server and a few requests.

    python -m zerograsp_edge.runtime.simulation.franka_server

`franka_world.FrankaWorld` starts it. It reads JSON, one object a line, from standard input and answers each on standard
output: first `{"assets", "bodies", "joints"}` (MJCF elements that join the robot's scene; joint positions to begin
with), answered by `{"host", "scene"}` once the robot listens; then any number of `{"ask": ...}`:

    state   -> {"time", "qpos", "steps"}   the world's state at that moment
    reflex  -> {}                          the robot stops with a reflex, as after a collision
    quit    (or the end of standard input) ends the process

What franky-sim 1.0 leaves out, and a real robot does, is added here: a stopped finger command is answered, as aborted;
and a reflex, with its error in the state until the automatic recovery.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
import xml.etree.ElementTree as ET
from typing import Any, TextIO

from zerograsp_edge.runtime.extras import require

# Fingers that hold something need more than MuJoCo's default of contacts that slide a little.
_OPTIONS = {"cone": "elliptic", "impratio": "10", "iterations": "100"}
# Place of `cartesian_reflex` among the 41 errors of libfranka (`research_interface/robot/error.h`).
_CARTESIAN_REFLEX, _ERRORS = 7, 41


def serve(requests: TextIO, answers: TextIO) -> None:
    """Run until asked to quit."""
    start = json.loads(requests.readline())
    simulator = require("franky_sim.mujoco_simulator", "franka-sim", "simulate a Franka").MujocoSimulator()
    simulator.add_robot(initial_q=start["joints"], initial_hand_width=0.08)
    _extend(simulator, start["assets"], start["bodies"])
    _add_reflex()
    _answer_stopped_fingers()
    scene = ET.tostring(simulator.scene, encoding="unicode")
    franky_sim = require("franky_sim", "franka-sim", "simulate a Franka")
    pending: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_listen, args=(requests, pending), daemon=True).start()
    with simulator, franky_sim.SimulationServer(simulator) as server:
        _say(answers, {"host": server.robot_servers[0].hostname, "scene": scene})
        steps = 0
        while True:
            server.run_once()
            steps += 1
            while not pending.empty():
                request = pending.get()
                if request is None or request["ask"] == "quit":
                    return
                if request["ask"] == "reflex":
                    server.robot_servers[0].reflex()
                    _say(answers, {})
                else:
                    qpos = simulator.data.qpos.tolist()
                    _say(answers, {"time": time.monotonic(), "qpos": qpos, "steps": steps})


def _extend(simulator: Any, assets: str, bodies: str) -> None:
    """Adds MJCF elements to the robot's scene."""
    scene = simulator.scene
    option = scene.find("option")
    if option is None:
        option = ET.SubElement(scene, "option")
    for name, value in _OPTIONS.items():
        option.set(name, value)
    for element in ET.fromstring(assets):
        scene.find("asset").append(element)
    for element in ET.fromstring(bodies):
        simulator.worldbody.append(element)


def _add_reflex() -> None:
    """Gives franky-sim's robot server a reflex: the motion is aborted, and nothing moves until the recovery."""
    from franky_sim import franka_robot_protocol as protocol
    from franky_sim import franka_robot_server as servers
    from franky_sim.franka_robot_state import FrankaRobotState

    server, stand_still = servers.FrankaRobotServer, servers.FrankaRobotServer.stop_motion
    plain_state = server.robot_state.fget
    plain_move, plain_recovery = protocol.MoveCommand.handle, protocol.AutomaticErrorRecoveryCommand.handle

    def reflex(self: Any) -> None:
        motion = self.current_motion_id
        stand_still(self, send_preemption_signal=False)
        self.in_reflex = True
        if motion:
            protocol.BaseCommand.send_response(
                self._tcp_socket, protocol.RobotCommand.kMove, motion, protocol.MoveStatus.kReflexAborted
            )
            self.reset_current_motion_id()

    def robot_state(self: Any) -> FrankaRobotState:
        state = plain_state(self)
        if not getattr(self, "in_reflex", False):
            return state
        errors = tuple(index == _CARTESIAN_REFLEX for index in range(_ERRORS))
        return state.replace(robot_mode=protocol.RobotMode.kReflex, errors=errors, reflex_reason=errors)

    def move(self: Any, server: Any) -> None:
        if getattr(server, "in_reflex", False):
            self.reply(protocol.MoveStatus.kCommandNotPossibleRejected)
        else:
            plain_move(self, server)

    def recover(self: Any, server: Any) -> None:
        server.in_reflex = False
        plain_recovery(self, server)

    server.reflex, server.robot_state = reflex, property(robot_state)
    protocol.MoveCommand.handle, protocol.AutomaticErrorRecoveryCommand.handle = move, recover


def _answer_stopped_fingers() -> None:
    """franky-sim forgets the command that a stop ends, and libfranka would wait for its answer for ever."""
    from franky_sim import franka_gripper_protocol as protocol
    from franky_sim import franka_gripper_server as servers

    server, plain_stop = servers.FrankaGripperServer, servers.FrankaGripperServer.stop

    def stop(self: Any, command_id: int, tcp_socket: Any) -> None:
        if self._pending_command_id is not None:
            servers.BaseCommand.send_response(
                self._pending_tcp_socket,
                self._pending_command_type,
                self._pending_command_id,
                protocol.GripperCommandStatus.kAborted,
                command_type_struct="H",
                status_type_struct="H",
            )
        plain_stop(self, command_id, tcp_socket)

    server.stop = stop


def _listen(requests: TextIO, pending: queue.Queue[dict[str, Any] | None]) -> None:
    for line in requests:
        pending.put(json.loads(line))
    pending.put(None)


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    # Whatever else prints must not get between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    serve(sys.stdin, answers)
