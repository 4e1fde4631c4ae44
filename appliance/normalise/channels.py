"""Third station of the line: Windows channels and event ids in Sigma's words.

Services are those of the Sigma taxonomy for product windows; a channel that no service names
still gives a view of product windows. Categories are Sigma's for Sysmon's event ids.
"""

from typing import Final

from appliance.schema import LogSource

SYSMON: Final = "microsoft-windows-sysmon/operational"
SECURITY: Final = "security"
POWERSHELL: Final = "microsoft-windows-powershell/operational"
POWERSHELL_CORE: Final = "powershellcore/operational"
POWERSHELL_CLASSIC: Final = "windows powershell"
DNS_CLIENT: Final = "microsoft-windows-dns-client/operational"
DEFENDER: Final = "microsoft-windows-windows defender/operational"

#: Sigma service -> channels, lower case.
SERVICES: Final[dict[str, tuple[str, ...]]] = {
    "application": ("application",),
    "security": (SECURITY,),
    "system": ("system",),
    "sysmon": (SYSMON,),
    "powershell": (POWERSHELL, POWERSHELL_CORE),
    "powershell-classic": (POWERSHELL_CLASSIC,),
    "applocker": (
        "microsoft-windows-applocker/exe and dll",
        "microsoft-windows-applocker/msi and script",
        "microsoft-windows-applocker/packaged app-deployment",
        "microsoft-windows-applocker/packaged app-execution",
    ),
    "application-experience": (
        "microsoft-windows-application-experience/program-telemetry",
        "microsoft-windows-application-experience/program-compatibility-assistant",
    ),
    "appmodel-runtime": ("microsoft-windows-appmodel-runtime/admin",),
    "appxdeployment-server": ("microsoft-windows-appxdeploymentserver/operational",),
    "appxpackaging-om": ("microsoft-windows-appxpackaging/operational",),
    "bitlocker": ("microsoft-windows-bitlocker/bitlocker management",),
    "bits-client": ("microsoft-windows-bits-client/operational",),
    "capi2": ("microsoft-windows-capi2/operational",),
    "certificateservicesclient-lifecycle-system": (
        "microsoft-windows-certificateservicesclient-lifecycle-system/operational",
    ),
    "codeintegrity-operational": ("microsoft-windows-codeintegrity/operational",),
    "dhcp": ("microsoft-windows-dhcp-server/operational",),
    "diagnosis-scripted": ("microsoft-windows-diagnosis-scripted/operational",),
    "dns-client": (DNS_CLIENT, "microsoft-windows-dns client events/operational"),
    "dns-server": ("dns server",),
    "dns-server-analytic": (
        "microsoft-windows-dns-server/analytical",
        "microsoft-windows-dnsserver/analytical",
    ),
    "dns-server-audit": (
        "microsoft-windows-dns-server/audit",
        "microsoft-windows-dnsserver/audit",
    ),
    "driver-framework": ("microsoft-windows-driverframeworks-usermode/operational",),
    "firewall-as": ("microsoft-windows-windows firewall with advanced security/firewall",),
    "hyper-v-worker": (
        "microsoft-windows-hyper-v-worker",
        "microsoft-windows-hyper-v-worker-admin",
        "microsoft-windows-hyper-v-worker/admin",
    ),
    "iis-configuration": ("microsoft-iis-configuration/operational",),
    "kernel-event-tracing": ("microsoft-windows-kernel-eventtracing/admin",),
    "kernel-shimengine": (
        "microsoft-windows-kernel-shimengine/operational",
        "microsoft-windows-kernel-shimengine/diagnostic",
    ),
    "ldap": ("microsoft-windows-ldap-client/debug",),
    "lsa-server": ("microsoft-windows-lsa/operational",),
    "microsoft-servicebus-client": (
        "microsoft-servicebus-client",
        "microsoft-servicebus-client/operational",
    ),
    "msexchange-management": ("msexchange management",),
    "ntfs": ("microsoft-windows-ntfs/operational",),
    "ntlm": ("microsoft-windows-ntlm/operational",),
    "openssh": ("openssh/operational",),
    "printservice-admin": ("microsoft-windows-printservice/admin",),
    "printservice-operational": ("microsoft-windows-printservice/operational",),
    "security-mitigations": (
        "microsoft-windows-security-mitigations/kernel mode",
        "microsoft-windows-security-mitigations/user mode",
        "microsoft-windows-security-mitigations/kernelmode",
        "microsoft-windows-security-mitigations/usermode",
    ),
    "sense": ("microsoft-windows-sense/operational",),
    "shell-core": ("microsoft-windows-shell-core/operational",),
    "smbclient-connectivity": ("microsoft-windows-smbclient/connectivity",),
    "smbclient-security": ("microsoft-windows-smbclient/security",),
    "smbserver-connectivity": ("microsoft-windows-smbserver/connectivity",),
    "taskscheduler": ("microsoft-windows-taskscheduler/operational",),
    "terminalservices-localsessionmanager": (
        "microsoft-windows-terminalservices-localsessionmanager/operational",
    ),
    "vhdmp": ("microsoft-windows-vhdmp-operational", "microsoft-windows-vhdmp/operational"),
    "windefend": (DEFENDER,),
    "wmi": ("microsoft-windows-wmi-activity/operational",),
}


def name_category(category: str) -> LogSource:
    """The log source of a Windows category."""
    return LogSource(product="windows", category=category)


WINDOWS: Final = LogSource(product="windows")
#: Channel -> the log source of its service.
CHANNELS: Final[dict[str, LogSource]] = {
    channel: LogSource(product="windows", service=service)
    for service, channels in SERVICES.items()
    for channel in channels
}

#: Sysmon event id -> categories (12 is told apart by its EventType, see `list_sysmon_categories`).
_SYSMON_CATEGORIES: Final[dict[int, tuple[str, ...]]] = {
    1: ("process_creation",),
    2: ("file_change",),
    3: ("network_connection",),
    4: ("sysmon_status",),
    5: ("process_termination",),
    6: ("driver_load",),
    7: ("image_load",),
    8: ("create_remote_thread",),
    9: ("raw_access_thread",),
    10: ("process_access",),
    11: ("file_event",),
    12: ("registry_event", "registry_add", "registry_delete"),
    13: ("registry_event", "registry_set"),
    14: ("registry_event", "registry_rename"),
    15: ("create_stream_hash",),
    16: ("sysmon_status",),
    17: ("pipe_created",),
    18: ("pipe_created",),
    19: ("wmi_event",),
    20: ("wmi_event",),
    21: ("wmi_event",),
    22: ("dns_query",),
    23: ("file_delete",),
    24: ("clipboard_capture",),
    25: ("process_tampering",),
    26: ("file_delete", "file_delete_detected"),
    27: ("file_block_executable",),
    28: ("file_block_shredding",),
    29: ("file_executable_detected",),
    255: ("sysmon_error",),
}
SYSMON_VIEWS: Final[dict[int, tuple[LogSource, ...]]] = {
    event_id: (CHANNELS[SYSMON], *(name_category(name) for name in categories))
    for event_id, categories in _SYSMON_CATEGORIES.items()
}
_REGISTRY_ADD: Final = tuple(
    source for source in SYSMON_VIEWS[12] if source.category != "registry_delete"
)
_REGISTRY_DELETE: Final = tuple(
    source for source in SYSMON_VIEWS[12] if source.category != "registry_add"
)

#: Provider -> channel, for records whose channel is empty. Only providers with one channel: a
#: trace converted to .evtx (such as Microsoft-Windows-RPC) has none, and gets none.
PROVIDER_CHANNELS: Final[dict[str, str]] = {
    "microsoft-windows-sysmon": "Microsoft-Windows-Sysmon/Operational",
    "microsoft-windows-security-auditing": "Security",
    "microsoft-windows-windows defender": "Microsoft-Windows-Windows Defender/Operational",
    "microsoft-windows-bits-client": "Microsoft-Windows-Bits-Client/Operational",
    "microsoft-windows-wmi-activity": "Microsoft-Windows-WMI-Activity/Operational",
    "service control manager": "System",
    "openssh": "OpenSSH/Operational",
}


def list_sysmon_sources(event_id: int, event_type: object) -> tuple[LogSource, ...]:
    """The log sources of a Sysmon event. EventType tells the three kinds of id 12 apart."""
    if event_id == 12:
        if event_type == "CreateKey":
            return _REGISTRY_ADD
        if event_type in ("DeleteKey", "DeleteValue"):
            return _REGISTRY_DELETE
    return SYSMON_VIEWS.get(event_id, (CHANNELS[SYSMON],))
