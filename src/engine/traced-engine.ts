/** The engine, watched: what it does is published on `node:diagnostics_channel`, at no cost while nobody listens. */
import { channel, tracingChannel } from 'node:diagnostics_channel'
import type {
  AbortUpload,
  AppendBytes,
  Appended,
  ChunkWritten,
  CompleteUpload,
  ComposeUpload,
  CreateUpload,
  StoredObject,
  SweepReport,
  UploadEvents,
  UploadOffset,
  UploadRef,
  UploadSession,
  WriteChunk,
} from '../types.ts'
import { Engine } from './upload-engine.ts'

/** What subscribers of `tracing:nexus-uploader.<verb>:*` get; Node adds `result` or `error`. */
export interface TracedCall {
  readonly verb: string
  /** Not known before `create` and `compose` have ended. */
  readonly uploadId?: string | undefined
  readonly protocol?: string | undefined
}

const eventNames = [
  'created',
  'chunk',
  'appended',
  'part',
  'completed',
  'aborted',
  'expired',
  'storageError',
  'warning',
] as const satisfies readonly (keyof UploadEvents)[]

const verbs = ['create', 'compose', 'writeChunk', 'append', 'retrieveOffset', 'complete', 'abort', 'sweep'] as const
type Verb = (typeof verbs)[number]

const channels = eventNames.map((name) => [name, channel(`nexus-uploader:${name}`)] as const)
const tracing = new Map(
  verbs.map((verb) => [verb, tracingChannel<unknown, TracedCall>(`nexus-uploader.${verb}`)] as const),
)

function traced<Result>(
  verb: Verb,
  request: { uploadId?: string; protocol?: string },
  call: () => Promise<Result>,
): Promise<Result> {
  const found = tracing.get(verb)
  if (!found?.hasSubscribers) return call()
  const { uploadId, protocol } = request
  const result = found.tracePromise(call, { verb, uploadId, protocol })
  // As without a trace: a caller who does not look at the result does not end the process.
  result.catch(() => {})
  return result
}

export class TracedEngine extends Engine {
  constructor(options: ConstructorParameters<typeof Engine>[0]) {
    super(options)
    for (const [name, target] of channels) {
      this.events.on(name, (event: unknown) => {
        if (target.hasSubscribers) target.publish(event)
      })
    }
  }

  override create(request: CreateUpload): Promise<{ session: UploadSession; resumed: boolean }> {
    return traced('create', request, () => super.create(request))
  }

  override compose(request: ComposeUpload): Promise<{ session: UploadSession; resumed: boolean }> {
    return traced('compose', request, () => super.compose(request))
  }

  override writeChunk(request: WriteChunk): Promise<ChunkWritten> {
    return traced('writeChunk', request, () => super.writeChunk(request))
  }

  override append(request: AppendBytes): Promise<Appended> {
    return traced('append', request, () => super.append(request))
  }

  override retrieveOffset(request: UploadRef): Promise<UploadOffset> {
    return traced('retrieveOffset', request, () => super.retrieveOffset(request))
  }

  override complete(request: CompleteUpload): Promise<StoredObject> {
    return traced('complete', request, () => super.complete(request))
  }

  override abort(request: AbortUpload): Promise<void> {
    return traced('abort', request, () => super.abort(request))
  }

  override sweep(): Promise<SweepReport> {
    return traced('sweep', {}, () => super.sweep())
  }
}
