/** Requests as Resumable.js, Flow.js and Dropzone make them, and wrong ones too. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type ResumableJsOptions, resumableJsHandler } from '../../src/protocols/resumablejs/handler.ts'
import { type Answer, answer } from './native-client.ts'
import { type ProtocolServer, protocolServer } from './protocol-server.ts'

export type Library = 'resumable' | 'flow' | 'dropzone'
export type Method = 'multipart' | 'octet'

export interface FileToSend {
  readonly data: Buffer
  readonly chunkSize: number
  readonly name?: string
  readonly type?: string
  readonly relativePath?: string
  readonly identifier?: string
  /** The remainder is a chunk of its own; always so for Dropzone. */
  readonly forceChunkSize?: boolean
}

/** `undefined` leaves a parameter out; a list is sent as several values. */
export type Parameters = Readonly<Record<string, string | number | readonly string[] | undefined>>

export interface Sending {
  readonly parameters?: Parameters
  /** Instead of the bytes that the chunk has. */
  readonly data?: Buffer
  readonly order?: 'fields first' | 'file first'
  readonly fileField?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly signal?: AbortSignal
}

export interface Run extends Sending {
  /** Whether chunks are tested before they are sent. */
  readonly tests?: boolean
  /** The chunk to begin with. */
  readonly from?: number
}

export function chunkCount({ data, chunkSize, forceChunkSize }: FileToSend): number {
  return Math.max((forceChunkSize ? Math.ceil : Math.floor)(data.length / chunkSize), 1)
}

export function chunkOf(file: FileToSend, number: number): Buffer {
  const { data, chunkSize } = file
  const end = number === chunkCount(file) ? data.length : number * chunkSize
  return data.subarray((number - 1) * chunkSize, end)
}

/** `number` is from 1 for every library. */
export function parametersOf(library: Library, file: FileToSend, number: number): Parameters {
  const { data, chunkSize, name = 'report.bin', type = 'application/pdf' } = file
  const { relativePath = name, identifier = `${data.length}-${name.replace(/[^0-9a-zA-Z_-]/g, '')}` } = file
  if (library === 'dropzone') {
    return {
      dzuuid: identifier,
      dzchunkindex: number - 1,
      dztotalfilesize: data.length,
      dzchunksize: chunkSize,
      dztotalchunkcount: chunkCount(file),
      dzchunkbyteoffset: (number - 1) * chunkSize,
    }
  }
  return {
    [`${library}ChunkNumber`]: number,
    [`${library}ChunkSize`]: chunkSize,
    [`${library}CurrentChunkSize`]: chunkOf(file, number).length,
    [`${library}TotalSize`]: data.length,
    ...(library === 'resumable' && { resumableType: type }),
    [`${library}Identifier`]: identifier,
    [`${library}Filename`]: name,
    [`${library}RelativePath`]: relativePath,
    [`${library}TotalChunks`]: chunkCount(file),
  }
}

function pairsOf(parameters: Parameters): [string, string][] {
  return Object.entries(parameters).flatMap(([name, value]): [string, string][] => {
    if (value === undefined) return []
    return Array.isArray(value) ? value.map((one) => [name, one]) : [[name, String(value)]]
  })
}

export function resumableClient(url: string, library: Library = 'resumable', method: Method = 'multipart') {
  const withQuery = (pairs: [string, string][]) => (pairs.length > 0 ? `${url}?${new URLSearchParams(pairs)}` : url)
  const test = (file: FileToSend, number: number, { parameters, headers = {} }: Sending = {}) => {
    const pairs = pairsOf({ ...parametersOf(library, file, number), ...parameters })
    return answer(fetch(withQuery(pairs), { headers: { ...headers } }))
  }
  const send = (file: FileToSend, number: number, sending: Sending = {}): Promise<Answer> => {
    const { parameters, data = chunkOf(file, number), headers = {}, signal } = sending
    const pairs = pairsOf({ ...parametersOf(library, file, number), ...parameters })
    const { type = 'application/pdf' } = file
    const common = { method: 'POST', ...(signal && { signal }) }
    if (method === 'octet') {
      const contentType = library === 'flow' ? type : 'application/octet-stream'
      const all = { 'Content-Type': contentType, ...headers }
      return answer(fetch(withQuery(pairs), { ...common, headers: all, body: new Uint8Array(data) }))
    }
    const form = new FormData()
    const partType = library === 'flow' ? { type } : {}
    const { fileField = 'file', order = 'fields first' } = sending
    const addFile = () => form.append(fileField, new Blob([new Uint8Array(data)], partType), file.name ?? 'report.bin')
    if (order === 'file first') addFile()
    for (const [name, value] of pairs) form.append(name, value)
    if (order === 'fields first') addFile()
    const target = library === 'resumable' ? withQuery(pairs) : url
    return answer(fetch(target, { ...common, headers: { ...headers }, body: form }))
  }
  /** As clients do: once more as long as the answer is 503. */
  const sendAgain = async (...sending: globalThis.Parameters<typeof send>): Promise<Answer> => {
    for (;;) {
      const sent = await send(...sending)
      if (sent.status !== 503) return sent
    }
  }
  /** A run of a client that tests (default) or does not: chunk after chunk, what is there is not sent. The last answer. */
  const run = async (file: FileToSend, { tests = library !== 'dropzone', from = 1, ...sending }: Run = {}) => {
    let last: Answer | null = null
    for (let number = from; number <= chunkCount(file); number++) {
      const tested = tests ? await test(file, number, sending) : null
      last = tested?.status === 200 ? tested : await send(file, number, sending)
    }
    if (!last) throw new Error('there was no chunk')
    return last
  }
  return { url, test, send, sendAgain, run }
}

type ServerOptions = NonNullable<globalThis.Parameters<typeof protocolServer>[1]>

/** The user that the header `X-User` names; nobody without it. */
export const byHeader: ResumableJsOptions['owner'] = ({ headers }) => headers['x-user'] as string | undefined

/** A server with the protocol at `/files`, for one user unless `owner` says otherwise, and a client for it. */
export async function resumableServer(
  options: ServerOptions & { library?: Library; method?: Method } = {},
  handler: Partial<ResumableJsOptions> = {},
) {
  const { library, method, ...rest } = options
  const server = await protocolServer((engine) => resumableJsHandler(engine, { owner: () => 'ann', ...handler }), rest)
  return { ...server, ...resumableClient(server.url, library, method) }
}

/** What the default storage has under the URL of an answer. */
export async function storedAt({ directory }: Pick<ProtocolServer, 'directory'>, { status, text, body }: Answer) {
  if (body?.url === undefined) throw new Error(`no url in the ${status} ${text}`)
  return readFile(join(directory, decodeURIComponent(new URL(body.url).pathname)))
}
