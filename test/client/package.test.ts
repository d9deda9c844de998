/** What the client weighs and needs. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { buildSync } from 'esbuild'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'
import { tempFolder } from '../support/temp-folder.ts'

const src = join(import.meta.dirname, '../../src')
/** Bytes; see `docs/client.md`. */
const maxSize = 6_000

describe('the bundle for pages', () => {
  const bundle = (contents: string) =>
    buildSync({
      stdin: { contents, resolveDir: src, loader: 'ts' },
      bundle: true,
      minify: true,
      format: 'esm',
      platform: 'browser',
      target: 'es2022',
      metafile: true,
      write: false,
    })
  const sizeOf = (contents: string) => {
    const code = bundle(contents).outputFiles[0]?.contents ?? new Uint8Array()
    return { minified: code.length, gzipped: gzipSync(code, { level: 9 }).length }
  }

  it(`has at most ${maxSize} bytes, minified and gzipped, with everything`, () => {
    const all = sizeOf("export * from './client.ts'")
    const one = sizeOf("export { uploadFile } from './client.ts'")
    console.log(`client: ${all.gzipped} bytes gzipped (${all.minified} minified); uploadFile alone: ${one.gzipped}`)
    expect(all.gzipped).toBeLessThanOrEqual(maxSize)
    expect(all.gzipped).toBeGreaterThan(3_000)
  })

  it('has nothing of Node, of the server, or of anybody else', () => {
    const inputs = Object.keys(bundle("export * from './client.ts'").metafile.inputs).filter(
      (path) => path !== '<stdin>',
    )
    expect(inputs.length).toBeGreaterThan(10)
    expect(inputs.filter((path) => !/^src\/client(\/[a-z-]+)?\.ts$/.test(path))).toEqual([])
  })
})

describe('the types', () => {
  function errorsOf(program: ts.Program): string[] {
    return ts
      .getPreEmitDiagnostics(program)
      .map(({ file, messageText }) => `${file?.fileName} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`)
  }
  const strict: ts.CompilerOptions = {
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    target: ts.ScriptTarget.ES2022,
    noEmit: true,
    allowImportingTsExtensions: true,
  }

  it('compile in a page that knows the DOM and nothing of Node', () => {
    const page = join(tempFolder(), 'page.ts')
    writeFileSync(
      page,
      `import { createUpload, createUploadGroup, UploadError, type UploadProgress, type UploadResult } from '${src}/client.ts'
      export async function send(file: File, stream: ReadableStream<Uint8Array>, bar: HTMLProgressElement): Promise<string> {
        const leaving = new AbortController()
        const onProgress = ({ sentBytes, totalBytes }: UploadProgress) => { bar.value = sentBytes / totalBytes }
        const upload = createUpload(file, { signal: leaving.signal, headers: () => ({ Authorization: 'x' }), onProgress })
        createUploadGroup({ credentials: 'include' }).add(stream, { size: 5 })
        createUpload(new Blob([]).slice(1))
        createUpload(new ArrayBuffer(3))
        // @ts-expect-error is not bytes
        createUpload(5)
        // @ts-expect-error an unknown option
        createUpload(file, { chunksize: 3 })
        const result: UploadResult = await upload.start().catch((error: unknown) => {
          throw error instanceof UploadError ? new Error(error.code + error.status) : error
        })
        return result.url
      }`,
    )
    const lib = ['lib.es2022.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts']
    const options = {
      ...strict,
      lib,
      types: [],
      module: ts.ModuleKind.ESNext,
      moduleResolution: ts.ModuleResolutionKind.Bundler,
    }
    expect(errorsOf(ts.createProgram([page], options))).toEqual([])
  })

  it('compile in the React hook of the examples', () => {
    const root = join(src, '..')
    const options = {
      ...strict,
      lib: ['lib.es2022.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'],
      types: [],
      module: ts.ModuleKind.ESNext,
      moduleResolution: ts.ModuleResolutionKind.Bundler,
      skipLibCheck: true,
      paths: {
        // Preact has the same hooks, and its own types.
        react: [join(root, 'node_modules/preact/compat/src/index.d.ts')],
        'nexus-uploader/client': [join(src, 'client.ts')],
      },
    }
    expect(errorsOf(ts.createProgram([join(root, 'examples/react-hook.ts')], options))).toEqual([])
  })

  it('compile in a program that knows Node and nothing of the DOM', () => {
    const program = join(tempFolder(), 'program.mts')
    writeFileSync(
      program,
      `import { createReadStream } from 'node:fs'
      import { createUpload, uploadFile, type UploadState } from '${src}/client-node.ts'
      const endpoint = 'https://files.example.com/upload'
      const state: UploadState = createUpload('a path', { endpoint }).progress.state
      void [state, uploadFile(createReadStream('a'), { endpoint, size: 5 }), uploadFile(Buffer.from('abc'), { endpoint })]
      void uploadFile(new File(['abc'], 'abc.txt'), { endpoint, signal: AbortSignal.timeout(5) })`,
    )
    const options = {
      ...strict,
      lib: ['lib.es2024.d.ts'],
      types: ['node'],
      typeRoots: [join(src, '../node_modules/@types')],
      module: ts.ModuleKind.NodeNext,
      moduleResolution: ts.ModuleResolutionKind.NodeNext,
      skipLibCheck: true,
    }
    expect(errorsOf(ts.createProgram([program], options))).toEqual([])
  })
})

describe('the folder', () => {
  it('imports only itself, and Node only below node/', () => {
    const files = readdirSync(join(src, 'client'), { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.ts'),
    )
    const imports = files.flatMap((file) => {
      const text = readFileSync(join(src, 'client', file), 'utf8')
      return [...text.matchAll(/from '([^']+)'/g)].map(([, target = '']) => ({ file, target }))
    })
    expect(imports.length).toBeGreaterThan(20)
    const isOwn = ({ file, target }: { file: string; target: string }) =>
      target.startsWith('./') || (file.startsWith('node') && (target.startsWith('../') || target.startsWith('node:')))
    expect(imports.filter((found) => !isOwn(found) || /^\.\.\/\.\.\//.test(found.target))).toEqual([])
  })
})
