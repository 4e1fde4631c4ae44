"""Fields that events of a log source can have, as far as that is known (normalise,
beside the line). Written by benchmarks/field_table.py: the union of what providers' own
schemas name (Sysmon 4.90, PowerShell's 4103 and 4104) and of what events of three public
collections have (evtx-attack-samples, security-datasets, eqllib); the count behind each
category is that of the events looked at."""

from typing import Final

from appliance.schema import LogSource

_WINDOWS: Final[dict[str, str]] = {
    "create_remote_thread": (  # 286 events
        "@timestamp @version AccountName AccountType Category Channel Computer Domain "
        "EventID EventId EventReceivedTime EventRecordID EventTime EventType "
        "ExecutionProcessID Hostname Keywords Level Message NewThreadId Opcode "
        "OpcodeValue ProcessId ProviderGuid Provider_Name RecordNumber RuleName "
        "Severity SeverityValue SourceImage SourceModuleName SourceModuleType "
        "SourceName SourceProcessGuid SourceProcessId SourceUser StartAddress "
        "StartFunction StartModule TargetImage TargetProcessGuid TargetProcessId "
        "TargetUser Task ThreadID TimeCreated UserID UtcTime Version host port tags"
    ),
    "dns_query": (  # 633 events
        "@timestamp @version AccountName AccountType Category Channel Computer Domain "
        "EventID EventReceivedTime EventRecordID EventTime EventType ExecutionProcessID "
        "Hostname Image Keywords Level Message Opcode OpcodeValue ProcessGuid ProcessID "
        "ProcessId ProviderGuid Provider_Name QueryName QueryResults QueryStatus "
        "RecordNumber RuleName Severity SeverityValue SourceModuleName SourceModuleType "
        "SourceName Task ThreadID TimeCreated User UserID UtcTime Version host port "
        "tags type"
    ),
    "file_change": (  # 463 events
        "@timestamp @version AccountName AccountType Category Channel Computer "
        "CreationUtcTime Domain EventID EventId EventReceivedTime EventRecordID "
        "EventTime EventType ExecutionProcessID Hostname Image Keywords Level Message "
        "Opcode OpcodeValue PreviousCreationUtcTime ProcessGuid ProcessId ProviderGuid "
        "Provider_Name RecordNumber RuleName Severity SeverityValue SourceModuleName "
        "SourceModuleType SourceName TargetFilename Task ThreadID TimeCreated User "
        "UserID UtcTime Version host port tags"
    ),
    "file_delete": (  # 1,777 events
        "@timestamp @version AccountName AccountType Archived Category Channel Computer "
        "Domain EventID EventReceivedTime EventRecordID EventTime EventType "
        "ExecutionProcessID Hashes Hostname Image IsExecutable Keywords Level Message "
        "Opcode OpcodeValue ProcessGuid ProcessId ProviderGuid Provider_Name "
        "RecordNumber RuleName Severity SeverityValue SourceModuleName SourceModuleType "
        "SourceName TargetFilename Task ThreadID TimeCreated User UserID UtcTime "
        "Version host port tags"
    ),
    "file_event": (  # 6,624 events
        "@timestamp @version AccountName AccountType Category Channel Computer "
        "CreationUtcTime Domain EventID EventId EventReceivedTime EventRecordID "
        "EventTime EventType ExecutionProcessID Hostname Image Keywords Level Message "
        "Opcode OpcodeValue ProcessGuid ProcessID ProcessId ProviderGuid Provider_Name "
        "RecordNumber RuleName Severity SeverityValue SourceModuleName SourceModuleType "
        "SourceName TargetFilename Task ThreadID TimeCreated User UserID UtcTime "
        "Version event_type file_name file_path host pid port process_name process_path "
        "tags timestamp type unique_pid"
    ),
    "image_load": (  # 30,983 events
        "Channel Company Computer Description EventID EventId EventRecordID FileVersion "
        "Hashes Image ImageLoaded Keywords Level Opcode OriginalFileName ProcessGuid "
        "ProcessId Product Provider_Name RuleName Signature SignatureStatus Signed Task "
        "User UserID UtcTime Version event_type image_name image_path pid process_name "
        "process_path timestamp unique_pid"
    ),
    "network_connection": (  # 3,988 events
        "@timestamp @version AccountName AccountType Application Category Channel "
        "Computer DestAddress DestPort DestinationHostname DestinationIp "
        "DestinationIsIpv6 DestinationPort DestinationPortName Direction Domain EventID "
        "EventId EventReceivedTime EventRecordID EventTime EventType ExecutionProcessID "
        "FilterRTID Hostname Image Initiated Keywords LayerName LayerRTID Level Message "
        "Opcode OpcodeValue ProcessGuid ProcessID ProcessId Protocol ProviderGuid "
        "Provider_Name RecordNumber RemoteMachineID RemoteUserID RuleName Severity "
        "SeverityValue SourceAddress SourceHostname SourceIp SourceIsIpv6 "
        "SourceModuleName SourceModuleType SourceName SourcePort SourcePortName Task "
        "ThreadID TimeCreated User UserID UtcTime Version destination_address "
        "destination_port event_type host pid port process_name process_path protocol "
        "source_address source_port subtype tags timestamp type unique_pid user "
        "user_domain user_name"
    ),
    "pipe_created": (  # 2,180 events
        "@timestamp @version AccountName AccountType Category Channel Computer Domain "
        "EventID EventId EventReceivedTime EventRecordID EventTime EventType "
        "EventTypeOrignal ExecutionProcessID Hostname Image Keywords Level Message "
        "Opcode OpcodeValue PipeName ProcessGuid ProcessID ProcessId ProviderGuid "
        "Provider_Name RecordNumber RuleName Severity SeverityValue SourceModuleName "
        "SourceModuleType SourceName Task ThreadID TimeCreated User UserID UtcTime "
        "Version host port tags type"
    ),
    "process_access": (  # 16,602 events
        "@timestamp @version AccountName AccountType CallTrace Category Channel "
        "Computer Domain EventID EventId EventReceivedTime EventRecordID EventTime "
        "EventType ExecutionProcessID GrantedAccess Hostname Keywords Level Message "
        "Opcode OpcodeValue ProcessID ProcessId ProviderGuid Provider_Name RecordNumber "
        "RuleName Severity SeverityValue SourceImage SourceModuleName SourceModuleType "
        "SourceName SourceProcessGUID SourceProcessId SourceThreadId SourceUser "
        "TargetImage TargetProcessGUID TargetProcessId TargetUser Task ThreadID "
        "TimeCreated UserID UtcTime Version host port tags type"
    ),
    "process_creation": (  # 5,437 events
        "@timestamp @version AccountName AccountType Category Channel CommandLine "
        "Company Computer CurrentDirectory Description Domain ERROR_EVT_UNRESOLVED "
        "EventID EventId EventReceivedTime EventRecordID EventTime EventType "
        "ExecutionProcessID FileVersion Hashes Hostname Image IntegrityLevel Keywords "
        "Level LogonGuid LogonId MandatoryLabel Message NewProcessId NewProcessName "
        "Opcode OpcodeValue OriginalFileName ParentCommandLine ParentImage "
        "ParentProcessGuid ParentProcessId ParentProcessName ParentUser ProcessGuid "
        "ProcessID ProcessId Product ProviderGuid Provider_Name RecordNumber RuleName "
        "Severity SeverityValue SourceModuleName SourceModuleType SourceName "
        "SubjectDomainName SubjectLogonId SubjectUserName SubjectUserSid "
        "TargetDomainName TargetLogonId TargetUserName TargetUserSid Task "
        "TerminalSessionId ThreadID TimeCreated TokenElevationType User UserID UtcTime "
        "Version command_line event_type host logon_id parent_process_name "
        "parent_process_path pid port ppid process_name process_path subtype tags "
        "timestamp type unique_pid unique_ppid user user_domain user_name"
    ),
    "process_termination": (  # 1,476 events
        "Channel Computer EventID EventId EventRecordID Image Keywords Level Opcode "
        "ProcessGuid ProcessId Provider_Name RuleName Task User UserID UtcTime Version "
        "event_type pid process_name process_path subtype timestamp unique_pid"
    ),
    "ps_module": (  # 35,252 events
        "@timestamp @version AccountName AccountType ActivityID Binary Category Channel "
        "CommandLine Computer ContextInfo Data DetailSequence DetailTotal Domain "
        "ERROR_EVT_UNRESOLVED EngineVersion EventID EventReceivedTime EventRecordID "
        "EventTime EventType ExecutionProcessID HostApplication HostId HostName "
        "HostVersion Hostname Keywords Level Message Opcode OpcodeValue Payload "
        "PipelineId ProcessID ProviderGuid Provider_Name RecordNumber RunspaceId "
        "ScriptName SequenceNumber Severity SeverityValue SourceModuleName "
        "SourceModuleType SourceName Task ThreadID TimeCreated UserData UserID UserId "
        "Version host param1 param2 param3 port tags type"
    ),
    "ps_script": (  # 763 events
        "@timestamp @version AccountName AccountType ActivityID Category Channel "
        "Computer Domain ERROR_EVT_UNRESOLVED EventID EventReceivedTime EventRecordID "
        "EventTime EventType ExecutionProcessID Hostname Keywords Level Message "
        "MessageNumber MessageTotal Opcode OpcodeValue Path ProcessID ProviderGuid "
        "Provider_Name RecordNumber ScriptBlockId ScriptBlockText Severity "
        "SeverityValue SourceModuleName SourceModuleType SourceName Task ThreadID "
        "TimeCreated UserID Version host port tags type"
    ),
    "raw_access_thread": (  # 2,537 events
        "@timestamp @version AccountName AccountType Category Channel Computer Device "
        "Domain EventID EventId EventReceivedTime EventTime EventType "
        "ExecutionProcessID Hostname Image Keywords Level Message Opcode OpcodeValue "
        "ProcessGuid ProcessID ProcessId ProviderGuid Provider_Name RecordNumber "
        "RuleName Severity SeverityValue SourceModuleName SourceModuleType SourceName "
        "Task ThreadID TimeCreated User UserID UtcTime Version host port tags type"
    ),
    "registry_add": (  # 25,853 events
        "Channel Computer EventID EventId EventRecordID EventType Image Keywords Level "
        "Opcode ProcessGuid ProcessId Provider_Name RuleName TargetObject Task User "
        "UserID UtcTime Version"
    ),
    "registry_delete": (  # 251 events
        "Channel Computer EventID EventId EventRecordID EventType Image Keywords Level "
        "Opcode ProcessGuid ProcessId Provider_Name RuleName TargetObject Task User "
        "UserID UtcTime Version"
    ),
    "registry_event": (  # 103,976 events
        "@timestamp @version AccountName AccountType Category Channel Computer Details "
        "Domain ERROR_EVT_UNRESOLVED EventID EventId EventReceivedTime EventRecordID "
        "EventTime EventType EventTypeOrignal ExecutionProcessID HandleId Hostname "
        "Image Keywords Level Message NewName NewValue NewValueType ObjectName "
        "ObjectValueName OldValue OldValueType Opcode OpcodeValue OperationType "
        "ProcessGuid ProcessID ProcessId ProcessName ProviderGuid Provider_Name "
        "RecordNumber RuleName Severity SeverityValue SourceModuleName SourceModuleType "
        "SourceName SubjectDomainName SubjectLogonId SubjectUserName SubjectUserSid "
        "TargetObject Task ThreadID TimeCreated User UserID UtcTime Version event_type "
        "host pid port process_name process_path registry_key registry_path "
        "registry_value tags timestamp type unique_pid"
    ),
    "registry_set": (  # 48,157 events
        "@timestamp @version AccountName AccountType Category Channel Computer Details "
        "Domain ERROR_EVT_UNRESOLVED EventID EventId EventReceivedTime EventRecordID "
        "EventTime EventType EventTypeOrignal ExecutionProcessID HandleId Hostname "
        "Image Keywords Level Message NewValue NewValueType ObjectName ObjectValueName "
        "OldValue OldValueType Opcode OpcodeValue OperationType ProcessGuid ProcessID "
        "ProcessId ProcessName ProviderGuid Provider_Name RecordNumber RuleName "
        "Severity SeverityValue SourceModuleName SourceModuleType SourceName "
        "SubjectDomainName SubjectLogonId SubjectUserName SubjectUserSid TargetObject "
        "Task ThreadID TimeCreated User UserID UtcTime Version host port tags type"
    ),
}
#: By log source. What is not here is open: nothing is claimed of its events.
KNOWN_FIELDS: Final[dict[LogSource, frozenset[str]]] = {
    LogSource("windows", category): frozenset(names.split()) for category, names in _WINDOWS.items()
}
