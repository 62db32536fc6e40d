#!/usr/bin/env bash
# yourdfpy 0.0.60: a robot model that is read and written again has lost `mimic` of its joints, `safety_controller` and
# `calibration`, and its transmissions. The library reads and uses mimic (such a joint is none of its actuated ones), but
# does not write it: in the written file the joint moves by itself. No error, no warning.
#
# Seen (Linux x86-64, Python 3.11), URDF.load() and write_xml_file() of a gripper of two fingers:
#   read          mimic of finger_2 is finger_1, multiplier -1; actuated joints: finger_1
#   written       no mimic, no safety_controller, no calibration, no transmission
#   read again    actuated joints: finger_1, finger_2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check yourdfpy==0.0.60
cd "$work"
cat > gripper.urdf <<'XML'
<robot name="gripper">
  <link name="palm"/>
  <link name="left"/>
  <link name="right"/>
  <joint name="finger_1" type="revolute">
    <parent link="palm"/>
    <child link="left"/>
    <axis xyz="0 0 1"/>
    <limit lower="-1.5" upper="1.5" effort="10" velocity="2"/>
    <dynamics damping="0.5" friction="0.25"/>
    <safety_controller soft_lower_limit="-1" soft_upper_limit="1" k_position="15" k_velocity="10"/>
    <calibration rising="0.5"/>
  </joint>
  <joint name="finger_2" type="revolute">
    <parent link="palm"/>
    <child link="right"/>
    <axis xyz="0 0 1"/>
    <limit lower="-1.5" upper="1.5" effort="10" velocity="2"/>
    <mimic joint="finger_1" multiplier="-1"/>
  </joint>
  <transmission name="drive">
    <type>transmission_interface/SimpleTransmission</type>
    <joint name="finger_1"><hardwareInterface>PositionJointInterface</hardwareInterface></joint>
    <actuator name="motor"><mechanicalReduction>50</mechanicalReduction></actuator>
  </transmission>
</robot>
XML
venv/bin/python - <<'PY'
from pathlib import Path

import yourdfpy


def load(name: str) -> yourdfpy.URDF:
    return yourdfpy.URDF.load(name, load_meshes=False, build_scene_graph=False)


before = load("gripper.urdf")
mimic = before.joint_map["finger_2"].mimic
print("read:", mimic, before.actuated_joint_names)
assert (mimic.joint, mimic.multiplier) == ("finger_1", -1.0)
assert list(before.actuated_joint_names) == ["finger_1"]

before.write_xml_file("written.urdf")
text = Path("written.urdf").read_text()
gone = [tag for tag in ("mimic", "safety_controller", "calibration", "transmission") if f"<{tag}" not in text]
print("not written:", gone)
assert gone == ["mimic", "safety_controller", "calibration", "transmission"]
assert "<dynamics" in text and "<limit" in text

after = load("written.urdf")
print("read again:", after.actuated_joint_names)
assert list(after.actuated_joint_names) == ["finger_1", "finger_2"]
print("as described")
PY
