"""The numbers of etcdserverpb.AlarmRequest, and their names."""

from __future__ import annotations

ALARM_GET, ALARM_ACTIVATE, ALARM_DEACTIVATE = 0, 1, 2
ALARM_NONE, ALARM_NOSPACE, ALARM_CORRUPT = 0, 1, 2
ALARM_NAMES = {ALARM_NOSPACE: "NOSPACE", ALARM_CORRUPT: "CORRUPT"}
