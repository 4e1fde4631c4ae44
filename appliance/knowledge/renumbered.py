"""Knowledge: ATT&CK ids of newer releases, and the id of release 18 that each one stands for.

Sources that a site imports follow different releases of ATT&CK. Content written for release 19
carries ids that release 18, which the default base is built from, does not know. This table joins
them: a rule tagged T1685.005 is shown beside T1070.001, and a question for either finds both.

How the enterprise part was worked out:

1. All technique tags of 3,754 SigmaHQ rules (last change 2026-07-30) were looked up among the 835
   techniques of ATT&CK Enterprise 18.1, revoked and deprecated ones included. Twelve ids are not
   among them, with this many rules each: T1685 164, T1685.001 28, T1685.002 3, T1685.004 1,
   T1685.005 8, T1685.006 4, T1686 7, T1686.001 5, T1686.002 2, T1686.003 20, T1689 1, T1690 1.
   In turn no rule carries T1562, any of its sub-techniques, T1070.001 or T1070.002 any more.
2. Atomic Red Team has folders for nine of them and for two more (T1688 and T1027.018), each with
   the technique's name, and no folder for T1562.*, T1070.001 and T1070.002. Seven of its names are
   those of release 18, letter by letter or but for a plural: T1685 Disable or Modify Tools,
   T1685.002 Disable or Modify Cloud Log, T1685.005 Clear Windows Event Logs, T1685.006 Clear Linux
   or Mac System Logs, T1686 Disable or Modify System Firewall, T1688 Safe Mode Boot, T1689
   Downgrade Attack. T1685.001, T1685.004 and T1690 are told by their tests (event log and audit
   policy; auditctl; HISTFILE, HISTCONTROL and history sizes).
3. T1686.001 and T1686.002 have no folder; their rules say what they are (Azure and AWS network
   rules 5 of 5, FortiGate policies 2 of 2). T1686.003 is Windows' own firewall in 20 of 20 rules,
   which release 18 keeps within T1562.004.
4. T1685.003, T1684.001 and T1684.002 occur in neither. They, and every line above except
   T1686.003, were checked against public tables that others derived from the "revoked-by"
   relationships of release 19 itself; three such tables agree on every line they share. A fourth
   differs in one (T1562.012 to T1690), against the names, and was not followed.

The ICS part (release 19 gave ATT&CK for ICS sub-techniques; nine techniques became such) rests on
public crosswalks alone, and on the names, which say the same in both releases.

Several old ids were merged into T1685 (T1562, T1562.001 and T1562.006); it is read as T1562.001,
whose name it bears.

Left out, because no single id of release 18 stands for them:

- T1027.018 (Invisible Unicode), T1682 (Query Public AI Services), T1683 (Generate Content) with
  .001 and .002: new in release 19, nothing before.
- T1684 (Social Engineering): a new parent of T1684.001 and T1684.002.
- T1687 (Exploitation for Defense Impairment): new; what it covers was a part of T1211, which goes
  on as Exploitation for Stealth.
- ICS parents T1691, T1692, T1693, T1694 and T1695: each is new and wider than any one old id.
- ICS T1695.002 (Ethernet), T1695.003 (Wi-Fi) and the new sub-techniques of techniques that kept
  their number (T0843.001 and others): new.
"""

from typing import Final

#: Technique id of a newer release -> technique id of release 18, enterprise and ICS.
RENUMBERED: Final[dict[str, str]] = {
    "T1684.001": "T1656",
    "T1684.002": "T1672",
    "T1685": "T1562.001",
    "T1685.001": "T1562.002",
    "T1685.002": "T1562.008",
    "T1685.003": "T1562.011",
    "T1685.004": "T1562.012",
    "T1685.005": "T1070.001",
    "T1685.006": "T1070.002",
    "T1686": "T1562.004",
    "T1686.001": "T1562.007",
    "T1686.002": "T1562.013",
    "T1686.003": "T1562.004",
    "T1688": "T1562.009",
    "T1689": "T1562.010",
    "T1690": "T1562.003",
    # ICS
    "T1691.001": "T0803",
    "T1691.002": "T0804",
    "T1692.001": "T0855",
    "T1692.002": "T0856",
    "T1693.001": "T0857",
    "T1693.002": "T0839",
    "T1694.001": "T0812",
    "T1694.002": "T0891",
    "T1695.001": "T0805",
}

#: Tactic id of a newer release -> tactic id of release 18. Release 19 split Defense Evasion: its
#: number went on as Stealth (TA0005), a new one is Defense Impairment (TA0112).
RENUMBERED_TACTICS: Final[dict[str, str]] = {"TA0112": "TA0005"}

#: Short name of a tactic in a newer release, as tags write it -> short name in release 18.
RENAMED_TACTICS: Final[dict[str, str]] = {
    "stealth": "defense-evasion",
    "defense-impairment": "defense-evasion",
}
