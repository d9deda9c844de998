/** What is measured: which servers a workload compares, in which figures, and how much is sent. */
import { type Contender, GiB, MiB, type Trial } from './measure.ts'
import type { FigureName } from './report.ts'

export const contenders = {
  pipe: { server: 'pipe', wire: 'whole' },
  nginx: { server: 'nginx', wire: 'whole' },
  'chunk-files': { server: 'chunk-files', wire: 'raw' },
  writev: { server: 'writev', wire: 'raw' },
  'express-form': { server: 'express', wire: 'form' },
  'express-raw': { server: 'express', wire: 'raw' },
  multer: { server: 'multer', wire: 'form' },
  uploadx: { server: 'uploadx', wire: 'uploadx' },
  'tus-server': { server: 'tus-server', wire: 'tus' },
  form: { server: 'ours', wire: 'form' },
  raw: { server: 'ours', wire: 'raw' },
  'form-undeclared': { server: 'ours', wire: 'form', declared: false },
  'form-crc32': { server: 'ours', wire: 'form', checksum: 'crc32' },
  'form-sha256': { server: 'ours', wire: 'form', checksum: 'sha256' },
  'form-power': { server: 'ours-power', wire: 'form' },
  'form-sparse': { server: 'ours-sparse', wire: 'form' },
  tus: { server: 'tus', wire: 'tus' },
  'tus-server-one': { server: 'tus-server', wire: 'tus-one-patch' },
  'tus-one': { server: 'tus', wire: 'tus-one-patch' },
  'relay-s3': { server: 'relay-s3', wire: 'raw' },
  'multer-s3': { server: 'multer-s3', wire: 'whole-form' },
  'tus-server-s3': { server: 'tus-server-s3', wire: 'tus' },
  'tus-server-s3-one': { server: 'tus-server-s3', wire: 'tus-one-patch' },
  'form-s3': { server: 'ours-s3', wire: 'form' },
  'raw-s3': { server: 'ours-s3', wire: 'raw' },
  'upload-s3': { server: 'ours-s3', wire: 'whole-form' },
  'tus-s3': { server: 'tus-s3', wire: 'tus' },
  'tus-s3-one': { server: 'tus-s3', wire: 'tus-one-patch' },
} satisfies Record<string, Contender>

export type ServerName = keyof typeof contenders
export const serverNames = Object.keys(contenders) as ServerName[]

/** The sizes of a standard run and of a quick one; bytes, numbers, or milliseconds. */
export const sizes = {
  size: { standard: '256M', quick: '32M', is: 'W1, W2, T: size of the file' },
  'chunk-size': { standard: '5M', quick: '5M', is: 'of all workloads but W3, W4 and W9' },
  clients: { standard: '200', quick: '20', is: 'W3: clients, 8 MiB each; a quarter of them on S3' },
  files: { standard: '1000', quick: '100', is: 'W4: files of 64 KiB; a quarter of them on S3' },
  'completion-sizes': { standard: '64M,1G', quick: '16M,64M', is: 'W5: sizes of the files' },
  'sparse-sizes': { standard: '1G,16G', quick: '1G,16G', is: 'W5S: sizes of the files' },
  'memory-size': { standard: '2G', quick: '64M', is: 'W6, W8: size of the file' },
  sessions: { standard: '10000', quick: '500', is: 'W6B: idle sessions' },
  'cut-size': { standard: '256M', quick: '64M', is: 'W7: size of the file' },
  'chunk-counts': { standard: '10,1000,10000', quick: '10,100,1000', is: 'W9: chunks of an upload' },
  'warm-up': { standard: '64', quick: '4', is: 'files of 512 KiB that each server takes first, unmeasured' },
  latency: { standard: '0,30', quick: '0', is: 'S: how long S3 takes for a call, ms' },
} as const

export type SizeName = keyof typeof sizes
/** Lists where the text is one. */
export type Sizes = Readonly<Record<SizeName, readonly number[]>>

interface Variant extends Trial {
  /** Beside the name of the workload, in the table. */
  readonly label: string
}

export interface Comparison {
  readonly is: string
  readonly servers: readonly ServerName[]
  /** The server that the others are compared with, and in what. */
  readonly base?: ServerName
  readonly ratios?: readonly FigureName[]
  readonly figures: readonly FigureName[]
  /** In the first round only: what it measures does not depend on what else the machine does, or it takes long. */
  readonly once?: boolean
  variants(sizes: Sizes): Variant[]
}

const one = (values: readonly number[]) => values[0] ?? 0

/** One file in chunks. */
function file(size: number, chunkSize: number, more: Partial<Trial['load']> = {}): Trial['load'] {
  return { files: 1, size, chunkSize, ...more }
}

const warmUpChunks = 8

/** Many small chunks, after which Node has compiled what runs often: servers run for days, not for a second. */
function manyChunks(sizes: Sizes): Trial['load'] {
  return { files: one(sizes['warm-up']), clients: 4, size: MiB / 2, chunkSize: MiB / 16 }
}

/** After some chunks of that size as well. */
function oneFile(sizes: Sizes, name: SizeName, more: Partial<Trial['load']> = {}): Variant[] {
  const chunkSize = one(sizes['chunk-size'])
  const warmUp = [manyChunks(sizes), file(warmUpChunks * chunkSize, chunkSize)]
  return sizes[name].map((size) => ({ label: bytesText(size), load: file(size, chunkSize, more), warmUp }))
}

function manyClients(sizes: Sizes, clients: number): Variant {
  const load = { files: clients, clients, size: 8 * MiB, chunkSize: MiB }
  return { label: `${clients} × 8M`, load, warmUp: [manyChunks(sizes), { ...load, files: 2, clients: 2 }] }
}

function smallFiles(sizes: Sizes, files: number): Variant {
  const load = { files, clients: 16, size: 64 * 1024, chunkSize: 64 * 1024 }
  return { label: `${files} × 64K`, load, warmUp: [manyChunks(sizes), { ...load, files: 16 }] }
}

/** The same with S3 behind, for each latency. */
function onS3(latencies: readonly number[], variants: readonly Variant[]): Variant[] {
  return latencies.flatMap((latency) =>
    variants.map((variant) => ({ ...variant, label: `${variant.label}, ${latency} ms`, latency })),
  )
}

const quarter = (values: readonly number[]) => Math.ceil(one(values) / 4)
const throughput: readonly FigureName[] = ['speed', 'cpu', 'clientCpu', 'completion', 'peakRss']
const throughputOnS3: readonly FigureName[] = [...throughput, 's3Calls']
const speedAndCpu: readonly FigureName[] = ['speed', 'cpu']

function tusOf(servers: readonly [ServerName, ServerName], isOnS3: boolean): Omit<Comparison, 'is'> {
  return {
    servers,
    base: servers[1],
    ratios: speedAndCpu,
    figures: isOnS3 ? throughputOnS3 : throughput,
    variants: (sizes) => oneFile(sizes, 'size'),
  }
}

export const comparisons = {
  W1: {
    is: 'one client, one file in chunks, one after the other',
    servers: [
      ...(['pipe', 'nginx', 'chunk-files', 'writev', 'express-form', 'express-raw'] as const),
      ...(['multer', 'uploadx', 'tus-server'] as const),
      ...(['form', 'raw', 'form-crc32', 'form-sha256', 'form-power'] as const),
    ],
    base: 'pipe',
    ratios: speedAndCpu,
    figures: throughput,
    variants: (sizes) => oneFile(sizes, 'size'),
  },
  W2: {
    is: 'the same, four chunks in flight',
    servers: ['chunk-files', 'writev', 'express-form', 'express-raw', 'multer', 'form', 'raw', 'form-undeclared'],
    base: 'chunk-files',
    ratios: speedAndCpu,
    figures: throughput,
    variants: (sizes) => oneFile(sizes, 'size', { inFlight: 4 }),
  },
  W3: {
    is: 'many clients at once, 1 MiB chunks',
    servers: [
      ...(['chunk-files', 'pipe', 'nginx', 'writev', 'express-form', 'express-raw'] as const),
      ...(['multer', 'uploadx', 'tus-server', 'form', 'raw'] as const),
    ],
    base: 'chunk-files',
    ratios: ['speed', 'chunkP99'],
    figures: ['speed', 'cpu', 'chunkP50', 'chunkP99', 'peakRss'],
    variants: (sizes) => [manyClients(sizes, one(sizes.clients))],
  },
  W4: {
    is: 'small files, 16 at a time',
    servers: ['pipe', 'nginx', 'express-form', 'express-raw', 'multer', 'uploadx', 'tus-server', 'form', 'raw'],
    base: 'pipe',
    ratios: ['files'],
    figures: ['files', 'cpuPerChunk', 'completion', 'peakRss'],
    variants: (sizes) => [smallFiles(sizes, one(sizes.files))],
  },
  W5: {
    is: 'how long the completion takes',
    servers: ['multer', 'form', 'raw'],
    figures: ['completion'],
    variants: (sizes) => oneFile(sizes, 'completion-sizes'),
  },
  W5S: {
    is: 'the same for sparse files, of which only the last chunk is sent',
    servers: ['form-sparse'],
    figures: ['completion'],
    variants: (sizes) =>
      oneFile(sizes, 'sparse-sizes', { lastOnly: true }).map((variant) => ({
        ...variant,
        warmUp: [{ ...variant.load, files: warmUpChunks }],
      })),
  },
  W6: {
    is: 'memory while a large file comes in',
    servers: ['pipe', 'multer', 'form', 'raw'],
    figures: ['speed', 'rssGrowth', 'peakRss'],
    once: true,
    // Cold: the growth from the first byte on.
    variants: (sizes) => oneFile(sizes, 'memory-size').map(({ label, load }) => ({ label, load })),
  },
  W6B: {
    is: 'heap of uploads that have their first chunk and wait for the next',
    servers: ['form'],
    figures: ['heap', 'rssGrowth'],
    once: true,
    variants: (sizes) => {
      const load = {
        scenario: 'idle',
        files: one(sizes.sessions),
        clients: 16,
        size: 8 * MiB,
        chunkSize: 1024,
      } as const
      return [{ label: `${load.files} idle`, load, warmUp: [{ ...load, files: 200 }] }]
    },
  },
  W7: {
    is: 'each chunk is cut with a probability of 1/5 while it is sent, again and again',
    servers: ['multer', 'uploadx', 'tus-server', 'form', 'raw', 'tus'],
    figures: ['sent'],
    once: true,
    variants: (sizes) => oneFile(sizes, 'cut-size', { cutShare: 0.2 }),
  },
  W8: {
    is: '64 KiB chunks of one upload while another completes',
    servers: ['multer', 'form', 'raw'],
    figures: ['completion', 'quietP99', 'chunkP99'],
    once: true,
    variants: (sizes) => oneFile(sizes, 'memory-size', { scenario: 'beside' }),
  },
  W9: {
    is: 'what one chunk of 16 KiB costs, in uploads of few and of many',
    servers: ['form', 'raw'],
    figures: ['cpuPerChunk', 'chunkP50', 'chunkP99'],
    once: true,
    variants: (sizes) => {
      const most = Math.max(...sizes['chunk-counts'])
      const of = (chunks: number, all: number) => file(chunks * 16_384, 16_384, { files: Math.ceil(all / chunks) })
      return sizes['chunk-counts'].map((chunks) => {
        return { label: `${chunks} chunks`, load: of(chunks, most), warmUp: [of(100, 1000)] }
      })
    },
  },
  T1: { is: 'tus: one file in one PATCH', ...tusOf(['tus-one', 'tus-server-one'], false) },
  T2: { is: 'tus: one file in a PATCH for each chunk', ...tusOf(['tus', 'tus-server'], false) },
  T3: { is: 'T1 with S3 behind', ...tusOf(['tus-s3-one', 'tus-server-s3-one'], true) },
  T4: { is: 'T2 with S3 behind', ...tusOf(['tus-s3', 'tus-server-s3'], true) },
  S1: {
    is: 'W1 with S3 behind',
    servers: ['relay-s3', 'multer-s3', 'tus-server-s3', 'form-s3', 'raw-s3', 'upload-s3', 'tus-s3'],
    base: 'relay-s3',
    ratios: speedAndCpu,
    figures: throughputOnS3,
    variants: (sizes) => onS3(sizes.latency, oneFile(sizes, 'size')),
  },
  S2: {
    is: 'W2 with S3 behind',
    servers: ['relay-s3', 'form-s3', 'raw-s3'],
    base: 'relay-s3',
    ratios: speedAndCpu,
    figures: throughputOnS3,
    variants: (sizes) => onS3(sizes.latency, oneFile(sizes, 'size', { inFlight: 4 })),
  },
  S3: {
    is: 'W3 with S3 behind',
    servers: ['relay-s3', 'tus-server-s3', 'form-s3', 'raw-s3'],
    base: 'relay-s3',
    ratios: ['speed', 'chunkP99'],
    figures: ['speed', 'cpu', 'chunkP50', 'chunkP99', 'peakRss', 's3Calls'],
    variants: (sizes) => onS3(sizes.latency, [manyClients(sizes, quarter(sizes.clients))]),
  },
  S4: {
    is: 'W4 with S3 behind',
    servers: ['relay-s3', 'multer-s3', 'tus-server-s3', 'form-s3', 'upload-s3', 'tus-s3'],
    base: 'relay-s3',
    ratios: ['files'],
    figures: ['files', 'cpuPerChunk', 'completion', 's3Calls'],
    variants: (sizes) => onS3(sizes.latency, [smallFiles(sizes, quarter(sizes.files))]),
  },
} satisfies Record<string, Comparison>

export type WorkloadKind = keyof typeof comparisons
export const workloadKinds = Object.keys(comparisons) as WorkloadKind[]

export interface Workload {
  readonly kind: WorkloadKind
  readonly comparison: Comparison
  readonly variant: Variant
}

/** Every variant of the workload. */
export function workloadsOf(kind: WorkloadKind, sizes: Sizes): Workload[] {
  const comparison: Comparison = comparisons[kind]
  return comparison.variants(sizes).map((variant) => ({ kind, comparison, variant }))
}

function bytesText(bytes: number): string {
  return bytes % GiB === 0 ? `${bytes / GiB}G` : bytes % MiB === 0 ? `${bytes / MiB}M` : `${bytes / 1024}K`
}
